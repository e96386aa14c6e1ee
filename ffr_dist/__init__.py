"""From Fake to Real, distributed: balanced synthetic images, generated, streamed, trained on and measured."""

__version__ = "0.1.0"
