import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "launch"))  # the noisy method
import harness
from small_run import write_data


def pytest_terminal_summary(terminalreporter):
    if harness.LINES:
        terminalreporter.section("chaos")
        for line in harness.LINES:
            terminalreporter.write_line(json.dumps(line))


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    write_data(folder / "data")
    return harness.Lab(folder / "data", folder)


@pytest.fixture
def scenario(lab, tmp_path, request):
    """Makes the scenario of a test, of the test's name; ends what it left running."""
    made = []

    def make(noise, **rest):
        name = request.node.name.removeprefix("test_").replace("_", " ")
        made.append(harness.Scenario(name, lab, tmp_path, noise, **rest))
        return made[-1]

    yield make
    for one in made:
        one.stop()
