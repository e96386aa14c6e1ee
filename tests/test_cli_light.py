from __future__ import annotations

import subprocess
import sys

HEAVY = {"torch", "ray", "diffusers", "transformers", "accelerate", "pyarrow", "sklearn"}

SHOW_HELP = """
import sys
from ffr_dist.cli import main
sys.argv = ["ffr", "--help"]
try:
    main()
finally:
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_help_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SHOW_HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown, _, loaded = done.stdout.rpartition("loaded:")
    assert "generate" in shown
    assert not HEAVY & set(loaded.split())
