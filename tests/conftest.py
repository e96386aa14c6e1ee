"""For all tests. That this file is here also lets those in folders below import the helpers beside it."""

from __future__ import annotations

import os

from hypothesis import settings

# As the command line does (see cli/app.py), before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Examples that import torch or share their cores take as long as they take.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
