"""The pool alone as a job: ``ray job submit -- python jobs/generate.py RECIPE --out DIR``. Resubmit it to go on."""

import sys

from ffr_dist.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "generate")
    main()
