"""What a person sees. Everything that prints is in this room: ``live`` shows what happens, the others what there is."""
