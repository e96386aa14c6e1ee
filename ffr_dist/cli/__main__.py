"""``python -m ffr_dist.cli`` is ``ffr``."""

from ffr_dist.cli.app import main

if __name__ == "__main__":
    main()
