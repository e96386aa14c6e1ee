"""The shards' small worker and independent reader serve here too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "shards"))
