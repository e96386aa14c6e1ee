from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Annotated, Any, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt, ValidationError, model_validator

from ffr_dist.config import Config, Name, digest, flatten, from_data, parse
from ffr_dist.errors import ConfigError


class SdConfig(Config):
    kind: Literal["sd"]
    weights: str
    guidance: float = Field(default=2.0, ge=0)


class GanConfig(Config):
    kind: Literal["gan"]
    truncation: float = 1.0

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.truncation > 1:
            raise ValueError("Truncation above 1 makes noise")
        return self


class FilterConfig(Config):
    blank_std: float = 2.0
    prompts: tuple[str, ...] = ()


class WholeConfig(Config):
    seed: int = 0
    images: PositiveInt
    generator: Annotated[SdConfig | GanConfig, Field(discriminator="kind")]
    keep: FilterConfig = FilterConfig()
    passes: tuple[FilterConfig, ...] = ()
    by_name: dict[str, FilterConfig] = Field(default_factory=dict)
    note: str | None = None
    workers: PositiveInt | Literal["auto"] = "auto"
    names: tuple[Name, ...] = Field(default=("a",), min_length=1)


GOOD: dict[str, Any] = {"images": 4, "generator": {"kind": "sd", "weights": "here"}}


def message(**changed: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        from_data(WholeConfig, GOOD | changed, "my.yaml")
    told = str(caught.value)
    assert told.startswith("my.yaml cannot be used:\n  ")
    assert caught.value.exit_code == 2
    return told


def test_yaml_becomes_a_frozen_config():
    text = "images: 4\ngenerator: {kind: sd, weights: here, guidance: 3}\nkeep: {prompts: [a, b]}\n"
    config = parse(WholeConfig, text, "my.yaml")
    assert config.generator == SdConfig(kind="sd", weights="here", guidance=3.0)
    assert config.keep.prompts == ("a", "b")
    with pytest.raises(ValidationError, match="frozen"):
        config.images = 5


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sed": 1}, "sed: unknown key; did you mean 'seed'?"),
        ({"keep": {"blank_sdt": 1.0}}, "keep.blank_sdt: unknown key; did you mean 'blank_std'?"),
        (
            {"generator": {"kind": "sd", "weights": "x", "guidence": 1.0}},
            "generator.guidence: unknown key; did you mean 'guidance'?",
        ),
        (
            {"generator": {"kind": "gan", "truncaton": 1.0}},
            "generator.truncaton: unknown key; did you mean 'truncation'?",
        ),
        ({"passes": [{}, {"prompt": []}]}, "passes.1.prompt: unknown key; did you mean 'prompts'?"),
        ({"by_name": {"x": {"promts": []}}}, "by_name.x.promts: unknown key; did you mean 'prompts'?"),
    ],
)
def test_a_misspelt_key_gets_the_nearest_name(changed, told):
    assert told in message(**changed)


def test_a_key_of_another_member_of_a_union_is_not_suggested():
    told = message(generator={"kind": "gan", "guidance": 1.0})
    assert "\n  generator.guidance: unknown key" in told
    assert "did you mean" not in told
    assert "known here: kind, truncation" in told


def test_a_key_like_nothing_lists_what_is_known():
    assert "zebra: unknown key; known here: blank_std, prompts" in message(keep={"zebra": 1})


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"images": "4"}, "images"),
        ({"images": 4.5}, "images"),
        ({"images": True}, "images"),
        ({"images": 0}, "images"),
        ({"images": None}, "images"),
        ({"note": 3}, "note"),
        ({"keep": [1]}, "keep"),
        ({"keep": {"prompts": "a, b"}}, "keep.prompts"),
        ({"keep": {"prompts": ["a", 1]}}, "keep.prompts.1"),
        ({"generator": {"kind": "sd", "weights": "x", "guidance": -1}}, "generator.guidance"),
    ],
)
def test_a_wrong_value_names_its_key(changed, key):
    lines = message(**changed).splitlines()[1:]
    assert len(lines) == 1
    assert lines[0].startswith(f"  {key}: ")


def test_the_value_that_was_given_is_shown():
    assert "(got '4')" in message(images="4")
    assert "(got None)" in message(images=None)


def test_what_a_config_says_of_itself_names_its_place():
    assert "\n  generator: truncation above 1 makes noise" in message(generator={"kind": "gan", "truncation": 2.0})


def test_an_unknown_member_of_a_union_lists_the_known_ones():
    told = message(generator={"kind": "sdd", "weights": "x"})
    assert "generator" in told
    assert "'sd'" in told
    assert "'gan'" in told


def test_a_missing_key_is_named():
    told = message(generator={"kind": "sd"})
    assert "\n  generator.weights: missing; it has no default" in told
    assert "\n  generator.kind: missing; it has no default" in message(generator={})


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"workers": "many"}, "workers: input should be a valid integer or 'auto' (got 'many')"),
        ({"names": ["My run"]}, "names.0: write small letters and digits, in words joined by '-', as in my-run-2 (got"),
        ({"names": [1]}, "names.0: input should be a valid string (got 1)"),
        ({"names": []}, "names: input should not be empty"),
        ({"names": "a"}, "names: input should be a list, as in [a, b] (got 'a')"),
        ({"by_name": 3}, "by_name: input should be keys and values (got 3)"),
        ({"generator": {"kind": "sdd"}}, "generator.kind: 'sdd' is none of 'sd', 'gan'"),
    ],
)
def test_a_mistake_is_one_line_in_words_of_the_file(changed, line):
    first, *more = message(**changed).splitlines()[1:]
    assert first.startswith(f"  {line}")
    assert not more


@pytest.mark.parametrize("text", ["images: 4\nkeep: {}\nimages: 5\n", "{images: 4, keep: {a: 1, a: 1}}"])
def test_a_key_that_is_given_twice_is_refused(text):
    with pytest.raises(ConfigError, match=r"the key '\w+' is given twice, first in line 1; leave one out\n.* line \d"):
        parse(WholeConfig, text, "my.yaml")


def test_what_yaml_merges_may_be_set_again():
    text = "by_name:\n  a: &a {blank_std: 1.0}\n  b: &b {<<: *a, blank_std: 2.0}\n  c: {<<: [*b, *a], blank_std: 3.0}\n"
    found = parse(WholeConfig, f"images: 4\ngenerator: {{kind: gan}}\n{text}", "my.yaml").by_name
    assert [found[name].blank_std for name in "abc"] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("text", ["keep: &a {b: *a}", "keep: &a {<<: *a}", "images: 2024-13-01", "[" * 3000])
def test_yaml_that_no_value_is_made_of_is_refused(text):
    with pytest.raises(ConfigError, match=r"^my\.yaml"):
        parse(WholeConfig, text, "my.yaml")


def test_all_mistakes_are_told_at_once():
    told = message(images="four", sed=1, keep={"blank_std": "x", "prompst": []}, note=7)
    assert len(told.splitlines()) == 6
    for key in ("images", "sed", "keep.blank_std", "keep.prompst", "note"):
        assert f"\n  {key}: " in told


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "3"])
def test_what_is_no_mapping_is_refused(text):
    with pytest.raises(ConfigError, match="must hold keys and values"):
        parse(WholeConfig, text, "my.yaml")


def test_broken_yaml_is_refused_with_its_place():
    with pytest.raises(ConfigError, match=r"(?s)my\.yaml is not YAML: .*line 2"):
        parse(WholeConfig, "images: 4\n  seed: [1,\n", "my.yaml")


def test_yaml_makes_no_objects():
    with pytest.raises(ConfigError, match="not YAML"):
        parse(WholeConfig, "images: !!python/object/apply:os.getcwd []\n", "my.yaml")


def test_a_date_is_no_plain_value():
    with pytest.raises(ConfigError, match="write plain strings"):
        parse(WholeConfig, "images: 2024-01-01\n", "my.yaml")


@given(st.text(max_size=80))
def test_any_text_is_a_config_or_a_config_error(text):
    with pytest.raises(ConfigError):
        parse(WholeConfig, text, "my.yaml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_digest_is_of_the_value(value):
    assert digest(value) == digest(json.loads(json.dumps(value)))
    assert digest(value, 12) == digest(value)[:12]


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_digest_knows_no_order_of_keys(value):
    assert digest(dict(reversed(value.items()))) == digest(value)


def test_digest_is_the_same_in_another_process_and_refuses_nan():
    value = {"b": [1, 2.5, None], "a": "é"}
    code = f"from ffr_dist.config import digest; print(digest({value!r}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == digest(value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"x": math.nan})


def test_flatten_gives_dotted_keys():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}, "f": None}
    assert flatten(nested) == {"a.b": 1, "a.c.d": [1, 2], "e": {}, "f": None}
