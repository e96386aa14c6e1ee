from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import ffr_dist

API = {
    "fit": ["task", "config"],
    "generate_dataset": ["recipe", "out"],
    "group_metrics": ["counts", "train_counts"],
    "open_dataset": ["where"],
    "read_index": ["store", "manifest"],
}
"""Names and leading parameters that other people's code relies on: add to them, never take away."""


def test_the_public_names_are_frozen():
    assert sorted(ffr_dist.__all__) == sorted(API)
    assert set(API) <= set(dir(ffr_dist))


@pytest.mark.parametrize("name", sorted(API))
def test_a_public_name_is_there_and_takes_what_it_took(name):
    function = getattr(ffr_dist, name)
    assert function.__doc__
    assert list(inspect.signature(function).parameters)[: len(API[name])] == API[name]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="open_datasets"):
        ffr_dist.open_datasets  # noqa: B018


def test_the_package_imports_nothing_heavy():
    code = "import sys, ffr_dist; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "ray", "diffusers", "pyarrow", "numpy", "pydantic"} & set(loaded)
