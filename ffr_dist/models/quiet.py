"""Keeps the loaders of transformers and diffusers off a terminal that shows our own progress."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from either library meanwhile."""
    from diffusers.utils import logging as diffusers_logging  # noqa: PLC0415 (heavy)
    from transformers.utils import logging  # noqa: PLC0415 (heavy)

    # For good, since a filter that is taken back (catch_warnings) would take back those of other threads too. The
    # argument's old name is the one that every supported release knows.
    warnings.filterwarnings("ignore", message="`torch_dtype` is deprecated", category=FutureWarning)
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    diffusers_bars = diffusers_logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if diffusers_bars:
            diffusers_logging.enable_progress_bar()
