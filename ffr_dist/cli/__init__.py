"""The ``ffr`` command. Imports no heavy library by itself: each verb loads what it needs."""

from ffr_dist.cli.app import main

__all__ = ["main"]
