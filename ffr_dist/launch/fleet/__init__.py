"""Many workers at once: who makes what, what follows from a failure, and who else works on the output. Without Ray."""
