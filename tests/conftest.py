"""For all tests. That this file is here also lets those in folders below import the helpers beside it."""

from __future__ import annotations

from hypothesis import settings

# Examples that import torch or share their cores take as long as they take.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
