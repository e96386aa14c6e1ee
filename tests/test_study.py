"""What a study's file says: its cells, its recipes, and what it may not say."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.config import from_data, parse
from ffr_dist.errors import ConfigError
from ffr_dist.study import (
    Cell,
    StudyConfig,
    Way,
    builtin_studies,
    cells_of,
    load_study,
    overridden,
    tuning_cells,
)

HEAD = {"name": "head-only", "set": {"train.finetune_trainable": "head"}}

grids = st.lists(
    st.fixed_dictionaries(
        {
            "arms": st.lists(st.sampled_from(["none", "usb", "ffr"]), min_size=1),
            "mitigations": st.lists(st.sampled_from(["erm", "dfr", "groupdro"]), min_size=1),
            "bias_ratios": st.lists(st.sampled_from([None, 0.9, 0.95]), min_size=1),
            "seeds": st.lists(st.integers(0, 3), min_size=1),
            "variant": st.sampled_from([None, HEAD]),
        }
    ),
    min_size=1,
    max_size=4,
)


def study(**values):
    whole = {"name": "small", "recipe": "ffr-demo", "output": "out", "grids": [{"arms": ["none"]}], **values}
    return from_data(StudyConfig, whole, "small.yaml")


@given(grids, st.sampled_from([None, 0.95]))
def test_cells_are_the_union_of_grids_each_once_in_the_order_of_the_file(found, own):
    named = [
        Cell(
            Way("" if grid["variant"] is None else "head-only", own if ratio is None else ratio, arm, mitigation), seed
        )
        for grid in found
        for ratio in grid["bias_ratios"]
        for arm in grid["arms"]
        for mitigation in grid["mitigations"]
        for seed in grid["seeds"]
    ]
    cells = cells_of(study(grids=found), own)
    assert len(set(cells)) == len(cells)
    assert set(cells) == set(named)
    assert list(cells) == sorted(set(named), key=named.index)


@given(grids)
def test_every_way_of_training_is_tuned_on_the_same_seeds(found):
    config = study(grids=found, tune={"bias_ratio": 0.9, "seeds": [0, 1]})
    ways = {(way.variant, way.arm, way.mitigation) for way in (cell.way for cell in cells_of(config, 0.95))}
    cells = tuning_cells(config, 0.95)
    assert {(cell.way.variant, cell.way.arm, cell.way.mitigation, cell.seed) for cell in cells} == {
        (*way, seed) for way in ways for seed in (0, 1)
    }
    assert {cell.way.bias_ratio for cell in cells} == {0.9}
    assert len(cells) == 2 * len(ways)


@given(st.dictionaries(st.sampled_from(["a", "a.b", "a.b.c", "d.e"]), st.integers(), max_size=3))
def test_settings_by_dotted_key_leave_the_rest_and_the_recipe_alone(settings):
    recipe = {"a": {"b": {"c": 1, "x": 2}}, "d": 3}
    before = yaml.safe_dump(recipe)
    changed = overridden(recipe, settings)
    assert yaml.safe_dump(recipe) == before
    if set(settings) <= {"a.b.c"}:
        assert changed == {"a": {"b": {"c": settings.get("a.b.c", 1), "x": 2}}, "d": 3}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"grids": []}, "grids"),
        ({"grids": [{"arms": ["none"], "mitigations": ["ermm"]}]}, "mitigations"),
        ({"grids": [{"arms": ["none"], "seed": [1]}]}, "did you mean 'seeds'"),
        ({"lead": {"arm": "ffr"}}, "no grid has ffr × erm"),
        ({"set": {"compare.seeds": [1]}}, "the study itself says its compare"),
        ({"tune": {"seeds": []}}, "tune.seeds"),
        (
            {"grids": [{"arms": ["none"], "variant": {"name": "v", "set": {"method.generator.steps": 5}}}]},
            "method.generator.steps: a variant sets keys below data., train. or read., or method.budget, since all cells share one pool",
        ),
        ({"grids": [{"arms": ["none"], "variant": {"name": "v", "set": {"train": 5}}}]}, "train: a variant sets keys"),
        ({"set": {"audit": {"steps": 5}}}, "audit is a whole section; write single keys, as in audit.steps"),
        ({"set": {"train.jtt": {}}}, "train.jtt is a whole section; write single keys, as in train.jtt.KEY"),
        (
            {"grids": [{"arms": ["none"], "variant": {"name": "v", "set": {"train.jtt": {"steps": 2}}}}]},
            "train.jtt is a whole section",
        ),
        (
            {"grids": [{"arms": ["none"], "variant": {"name": "v", "set": {"data.kind": "folder"}}}]},
            "data.kind: a variant cannot change it",
        ),
        (
            {"grids": [{"arms": ["none"], "variant": {"name": "v", "set": {"data.bias_ratio": 0.9}}}]},
            "list it under 'bias_ratios'",
        ),
        (
            {
                "grids": [
                    {"arms": ["none"], "variant": HEAD},
                    {"arms": ["ffr"], "variant": {"name": "head-only", "set": {"train.batch": 8}}},
                ]
            },
            "variant head-only sets different things",
        ),
    ],
)
def test_what_a_study_may_not_say_is_told_by_key(values, told):
    with pytest.raises(ConfigError) as caught:
        study(**values)
    assert told in str(caught.value)


def test_a_mapping_that_is_no_section_may_be_set_and_a_section_of_a_kind_replaced():
    settings = {"method.prompts": {"a": ["b"]}, "train.model": {"kind": "resnet"}, "train.arm_lrs": {"asb": [0.1]}}
    assert study(set=settings).set == settings


def test_near_equal_bias_ratios_have_names_of_their_own():
    near = [Way("", ratio, "none", "erm") for ratio in (0.9, 0.9000001, 0.9000000000000001)]
    assert len({str(way) for way in near}) == 3


def test_a_recipe_is_looked_for_beside_the_study(tmp_path, monkeypatch):
    text = load_study("embedded-world")[2]
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.yaml").write_text(text.replace("name: ffr-demo", "name: mine"))
    file = tmp_path / "studies" / "small.yaml"
    values = {"name": "small", "output": "out", "grids": [{"arms": ["none"]}]}
    file.write_text(yaml.safe_dump({**values, "recipe": "mine.yaml"}))
    assert "name: mine" in load_study(str(file))[2]
    monkeypatch.chdir(tmp_path / "studies")
    assert "name: mine" in load_study("small.yaml")[2]
    file.write_text(yaml.safe_dump({**values, "recipe": "ffr-demo"}))
    (tmp_path / "studies" / "ffr-demo").mkdir()  # as its output is called
    assert load_study("small.yaml")[2] == text
    file.write_text(yaml.safe_dump({**values, "recipe": "nowhere.yaml"}))
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        load_study("small.yaml")
    with pytest.raises(ConfigError, match=r"study other\.yaml cannot be read.*embedded-world"):
        load_study("other.yaml")
    file.write_text(yaml.safe_dump({**values, "recipe": "ffr-demo", "output": "s3://me:secretsecret@host/x"}))
    with pytest.raises(ConfigError, match="a URL with a password"):
        load_study("small.yaml")


def test_built_in_studies_are_read():
    for name in builtin_studies():
        config, text, _ = load_study(name)
        assert parse(StudyConfig, text, name) == config
        assert text.startswith("# ")
