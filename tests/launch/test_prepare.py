"""Artefacts that are there already, and markers that are none."""

from types import SimpleNamespace

import pytest

from ffr_dist.errors import BrokenError
from ffr_dist.launch.prepare import prepare
from ffr_dist.methods import MapStep, step_folder
from ffr_dist.store import open_store

STEP = MapStep(name="drafts", identity={"of": "x"}, requests=lambda inputs: [], sampler=lambda inputs, device: None)


@pytest.fixture
def run(tmp_path):
    method = SimpleNamespace(prepare=lambda real: [STEP])
    return SimpleNamespace(store=open_store(str(tmp_path)), method=method, tell=lambda event: None)


def test_what_is_there_is_not_made_again(run):
    run.store.put(f"{step_folder(STEP)}/step.json", b'{"sha256": "ab"}')
    inputs, hashes = prepare(run, {})
    assert hashes == {"drafts": "ab"}
    assert inputs.prepared["drafts"].url == f"{run.store.url}/{step_folder(STEP)}"


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\xff", b"null"])
def test_a_marker_that_is_none_is_named(run, body):
    run.store.put(f"{step_folder(STEP)}/step.json", body)
    with pytest.raises(BrokenError, match=r"prepared/drafts-[0-9a-f]{12}/step\.json"):
        prepare(run, {})
