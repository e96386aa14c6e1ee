"""The whole way as a job: ``ray job submit -- python jobs/run.py RECIPE --out DIR``. Resubmit it to go on."""

import sys

from ffr_dist.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
