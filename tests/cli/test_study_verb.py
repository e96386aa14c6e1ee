"""``ffr study`` as its users meet it."""

import json

import pytest
import tiny_study
import yaml
from tiny_study import SETTINGS, study_text

from ffr_dist.datasets import embedded
from ffr_dist.launch.study import crew
from ffr_dist.launch.study.work import Answer, do

SMALL = {
    "set": {**SETTINGS, "train.lrs": [0.001], "train.finetune_lrs": [0.001]},
    "grids": [{"arms": ["none", "ffr"], "seeds": [0, 1]}, {"arms": ["group_balanced"], "mitigations": ["erm", "dfr"]}],
    "tune": None,
    "skip_impossible": True,
}


@pytest.fixture(scope="module", autouse=True)
def _few_generator_images():
    before = embedded.GENERATOR_IMAGES
    tiny_study.few_generator_images()
    embedded._lay_out_generator.cache_clear()
    yield
    embedded.GENERATOR_IMAGES = before
    embedded._lay_out_generator.cache_clear()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("verb") / "tiny.yaml"
    file.write_text(study_text(**SMALL, output=str(file.parent / "out")))
    return file


def test_a_study_from_its_file_to_its_table(ffr, file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    def breaking(task, desk):
        broken = task.cell.arm == "ffr" and desk.seed == 1 and task.until == "finetune"
        return Answer(error="the device is on fire") if broken else do(task, desk)

    monkeypatch.setattr(crew, "do", breaking)
    code, told, said = ffr("study", file, "--inline")
    assert code == 3
    assert f"1 of 5 cells failed; to try them again: ffr study {file} --inline" in said
    assert "failed: ffr × erm, r 0.9, seed 1: finetune: the device is on fire" in told
    assert "left out: group_balanced × dfr, r 0.9: arm group_balanced draws every" in told
    assert "✓ 1/5 none × erm, r 0.9, seed 0: worst group" in told
    assert "✗ " in told

    monkeypatch.undo()
    code, told, said = ffr("study", file, "--inline", "--json")
    assert code == 0
    found = json.loads(told)
    assert found["cells"] == 5
    assert found["failures"] == []
    assert [one["mitigation"] for one in found["skipped"]] == ["dfr"]
    assert [line["arm"] for line in found["tables"][0]["lines"]] == ["none", "ffr", "group_balanced"]
    assert "5/5" in said  # what is told on the way does not mix with the object

    monkeypatch.setenv("COLUMNS", "160")
    code, told, _ = ffr("study", file, "--inline")
    assert code == 0
    assert "= 5/5" in told
    assert "r 0.9: accuracy on test, % (mean of up to 2 seeds; in brackets 95 %)" in told
    assert "none × erm" in told
    assert (file.parent / "out" / "report.html").is_file()
    assert (file.parent / "out" / "study.yaml").read_text() == file.read_text()

    page = file.parent / "out" / "report.html"
    page.unlink()
    code, told, _ = ffr("report", file.parent / "out")
    assert code == 0
    assert str(page) in told
    assert page.is_file()
    code, told, _ = ffr("status", file.parent / "out")
    assert "study finished: 5 of 5 cells have come to their end" in told
    assert "pool finished: " in told


def test_a_study_that_cannot_be_run_writes_nothing(ffr, tmp_path):
    file = tmp_path / "tiny.yaml"
    values = yaml.safe_load(study_text(**{**SMALL, "skip_impossible": None}, output=str(tmp_path / "out")))
    file.write_text(yaml.safe_dump(values))
    code, _, said = ffr("study", file)
    assert code == 2
    assert "group_balanced × dfr, r 0.9: arm group_balanced draws every" in said
    assert not (tmp_path / "out").exists()
    code, _, said = ffr("study", "nowhere")
    assert code == 2
    assert "nowhere cannot be read" in said
