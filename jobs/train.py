"""One cell of the comparison on one or many devices: ``accelerate launch jobs/train.py RECIPE --arm ffr --mitigation erm``.

The real data and the pool are read from the output; what it does not hold of the real data is imported first. Run it again
to go on, on any number of processes.
"""

import sys

from ffr_dist.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
