"""What several tests of the report share: the sample page and a browser to look at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import EXECUTABLE, Chromium
from report_sample import sample_report, study_report

from ffr_dist.report.content import Report


@pytest.fixture(scope="session")
def sample() -> Report:
    return sample_report()


@pytest.fixture(scope="session")
def study() -> Report:
    return study_report()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One Chromium for all tests: starting it is the slow part."""
    if EXECUTABLE is None:
        pytest.skip("no Chromium here: install the package 'chromium'")
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started
