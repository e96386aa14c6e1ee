"""``ffr audit``, on one small real output of which half of the candidates of two groups were rejected."""

import json

import pytest
from small_run import GROUPS, make_run, recipe_text, write_data

from ffr_dist.errors import StoppedError
from ffr_dist.launch.audit import check_pool
from ffr_dist.launch.context import import_real
from ffr_dist.launch.pool import make_pool
from ffr_dist.launch.publish import write_report
from ffr_dist.report.sheets import describe
from ffr_dist.store import open_store

KEEP = ("generate: {batch: 4, images_per_shard: 8}", "generate: {batch: 4, images_per_shard: 8, keep: {blank_std: 20}}")


def written(folder, name, audit="audit: {steps: 5, held_out: 0.5}"):
    path = folder / f"{name}.yaml"
    path.write_text(recipe_text(folder / "data", folder / "out", keep=KEEP, audit=("audit: {steps: 5}", audit)))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited")
    write_data(folder / "data")
    run = make_run(written(folder, "small").read_text(), str(folder / "out"))
    make_pool(run, inline=True)
    return folder


def test_a_recipe_then_its_output_alone(ffr, made):
    code, told, _ = ffr("audit", made / "small.yaml")
    assert code == 0
    for words in (*GROUPS, "KID", "real or generated: a probe is right of", "rejected: blank 55", "contact sheets: 10"):
        assert words in told
    first = (made / "out" / "audit.json").read_bytes()
    body = json.loads(first)
    assert body["acceptance"]["low_temple"] == {"tried": 35, "accepted": 11, "rejected": {"blank": 24}}
    kinds = {(sheet["group"], sheet["kind"]) for sheet in body["sheets"]}
    rejected = {("low_temple", "rejected"), ("high_temple", "rejected")}
    assert kinds == {*((group, kind) for group in GROUPS for kind in ("best", "worst")), *rejected}
    for sheet in body["sheets"]:
        assert describe((made / "out" / sheet["file"]).read_bytes())[0] == "image/png"

    # Alone: the data, and the recipe's own copy, need not be here; and nothing is judged twice.
    (made / "data").rename(made / "elsewhere")
    try:
        code, told, _ = ffr("audit", made / "out", "--json")
        assert (code, json.loads(told)) == (0, body)
        (made / "out" / "audit.json").unlink()
        assert ffr("audit", made / "out")[0] == 0
        assert (made / "out" / "audit.json").read_bytes() == first  # the same pool, the same audit
    finally:
        (made / "elsewhere").rename(made / "data")


def test_a_missed_threshold_is_exit_4_and_stops_a_run(ffr, made):
    strict = written(
        made, "strict", "audit: {steps: 5, held_out: 0.5, min_label_accuracy: 1.0, max_real_or_fake_accuracy: 0.5}"
    )
    code, told, _ = ffr("audit", strict)
    assert code == 4
    assert "✗ label accuracy of the worst group, " in told
    assert "and the recipe asks for 100.0%" in told
    checks = json.loads((made / "out" / "audit.json").read_text())["checks"]
    assert [(check["at_least"], check["at_most"]) for check in checks] == [(1.0, None), (None, 0.5)]
    run = make_run(strict.read_text())
    with pytest.raises(StoppedError, match="failed its audit, so nothing was trained on it: label accuracy"):
        check_pool(run, import_real(run, 0))
    write_report(run)
    page = (made / "out" / "report.html").read_text()
    assert "label accuracy of the worst group" in page
    # By what stands in the output, which was claimed with the recipe without thresholds, all is well.
    assert ffr("audit", made / "out")[0] == 0


def test_an_output_of_many_seeds_asks_its_data_which_set_is_meant(ffr, made):
    out = open_store(str(made / "out"))
    (train,) = {info.key.split("/")[1] for info in out.list("real") if info.key.startswith("real/train-")}
    other = out.below("real/train-000000000000")
    for info in out.below(f"real/{train}").list():
        other.put(info.key, out.get(f"real/{train}/{info.key}"))
    try:
        assert ffr("audit", made / "out", "--json")[0] == 0
    finally:
        for info in list(other.list()):
            other.delete(info.key)


@pytest.mark.parametrize(
    ("audit", "why"),
    [
        ("{max_real_or_fake_accuracy: 0.3}", "no set can pass"),
        ("{max_copies: 0}", "does not say which images the generator learned from"),
        ("{features: /no/such/folder}", "audit.features '/no/such/folder': no such folder"),
        ("{max_kid: 1}", "max_kid"),
    ],
)
def test_what_cannot_be_held_is_refused_with_the_recipe(ffr, made, audit, why):
    code, _, told = ffr("audit", written(made, "wrong", f"audit: {audit}"))
    assert code == 2
    assert why in told


def test_what_is_no_finished_output(ffr, made, tmp_path):
    for what, why in ((tmp_path, "recipe.yaml"), (tmp_path / "nowhere", "nowhere")):
        code, _, told = ffr("audit", what)
        assert code == 2
        assert why in told
    code, _, told = ffr("audit", made / "small.yaml", "--out", tmp_path / "none")
    assert (code, "run 'ffr generate' first" in told, (tmp_path / "none").exists()) == (2, True, False)
    code, _, told = ffr("audit", made / "out", "--out", tmp_path)
    assert (code, "--out goes with a recipe" in told) == (2, True)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "recipe.yaml").write_text((made / "small.yaml").read_text())
    code, _, told = ffr("audit", begun)
    assert (code, "ffr import" in told) == (2, True)
