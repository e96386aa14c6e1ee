import pytest
from small_run import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_data(folder)
    return folder
