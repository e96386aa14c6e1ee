"""Prompts with words that each candidate draws."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.config import from_data
from ffr_dist.errors import ConfigError
from ffr_dist.groups import Group, Groups
from ffr_dist.methods.ffr.config import FFRConfig
from ffr_dist.methods.ffr.method import FFR
from ffr_dist.methods.method import Inputs
from ffr_dist.train.stage import TrainConfig

GROUPS = Groups.of([Group("small", 0, 0), Group("big", 1, 0)])
GENERATOR = {"weights": "embedded", "steps": 2, "guidance": 1.0, "size": 8}
TRAINING = TrainConfig(epochs=1, lrs=(0.1,), finetune_lrs=(0.1,))
WORDS = {"breed": ["beagle", "pug"], "place": ["in a park", "on a lawn", "by the sea"]}
PROMPTS = {"small": ["a photo of a {breed} {place}", "{breed}, {breed}"], "big": ["a photo of a dog"]}


def config(prompts=PROMPTS, **settings) -> FFRConfig:
    return from_data(FFRConfig, {"generator": GENERATOR, "prompts": prompts, **settings}, "method")


def drawn(wanted: FFRConfig, group: str, ks, seed: int = 0) -> list[str]:
    method = FFR(config=wanted, groups=GROUPS, seed=seed, size=8, training=TRAINING)
    return [request.prompt for request in method.requests(Inputs(real={}, prepared={}), group, ks)]


def test_each_candidate_draws_a_word_for_each_name():
    prompts = drawn(config(words=WORDS), "small", range(400))
    assert set(prompts) == {f"a photo of a {breed} {place}" for breed in WORDS["breed"] for place in WORDS["place"]} | {
        "beagle, beagle",
        "pug, pug",
    }
    assert drawn(config(words=WORDS), "big", range(3)) == ["a photo of a dog"] * 3


def test_words_draw_beside_the_prompt_and_each_other():
    """What a list holds changes no draw but its own."""
    shorter = {**WORDS, "place": ["in a park"]}
    one, other = (drawn(config(words=words), "small", range(100)) for words in (WORDS, shorter))
    assert one != other
    assert [re.sub("in a park|on a lawn|by the sea", "", prompt) for prompt in one] == [
        prompt.replace("in a park", "") for prompt in other
    ]


@given(st.integers(0, 2**31), st.lists(st.integers(0, 2**40), max_size=5))
def test_a_word_belongs_to_its_candidate(seed, ks):
    wanted = config(words=WORDS)
    assert drawn(wanted, "small", ks, seed) == [drawn(wanted, "small", [k], seed)[0] for k in ks]


def test_prompts_without_words_are_drawn_as_ever_and_words_guard_the_pixels():
    plain = {"small": ["a", "b", "c"], "big": ["d"]}
    assert drawn(config(plain), "small", range(12)) == list("abcacbacbbca")

    def fields(wanted):
        return FFR(config=wanted, groups=GROUPS, seed=0, size=8, training=TRAINING).pixel_fields()

    assert set(fields(config(plain))) == {"generator", "prompts"}
    assert fields(config(words=WORDS))["words"] == WORDS


@pytest.mark.parametrize(
    ("prompts", "words", "told"),
    [
        (["a {bred}"], {"breed": ["pug"]}, r"prompt 'a \{bred\}' of group small: \{bred\} has no list .* \{breed\}"),
        (["a {breed}"], {}, r"\{breed\} has no list in words; there are none"),
        (["a {breed"], {"breed": ["pug"]}, "a brace is not closed"),
        (["a {}"], {"breed": ["pug"]}, r"\{\} has no list"),
        (["a {breed}"], {"breed": ["pug"], "place": ["here"]}, r"words\.place: no prompt has \{place\}"),
        (["a {breed}"], {"breed": []}, r"words\.breed"),
        (["a dog", " "], {}, r"prompts\.small: a prompt is empty"),
    ],
)
def test_unknown_names_and_unused_lists_are_refused(prompts, words, told):
    with pytest.raises(ConfigError, match=told):
        config({"small": prompts, "big": ["d"]}, words=words)


def test_the_pool_of_the_demo_is_what_it_was():
    """Outputs that were made before there were words go on."""
    from ffr_dist.recipe import build_method, load_recipe, pixel_fields, pixel_hash

    recipe, _ = load_recipe("ffr-demo")
    (train,) = (split for split in recipe.data.splits(0) if split.name == "train")
    found = pixel_hash(pixel_fields(recipe, build_method(recipe, train.groups)))
    assert found == "cfe60bea2bceb10b0c7dde90bffabba6efc7c064d107f16f484125f5b9643ea3"
