from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import ConfigError
from ffr_dist.groups import UNKNOWN_BIAS, Group, Groups

LAND_LAND = Group("landbird_on_land", 0, 0)
WATER_LAND = Group("waterbird_on_land", 1, 0)


@pytest.mark.parametrize("name", ["a", "blond_male", "0", "class_12", "a" * 40])
def test_usable_names(name):
    assert Group(name, 0, 0).name == name


@pytest.mark.parametrize(
    "name", ["", "A", "a__b", "_a", "a_", "a-b", "a b", "a/b", "..", "a\n", "é", "a" * 41, "a.b"]
)  # fmt: skip
def test_unusable_names(name):
    with pytest.raises(ConfigError, match=re.escape(repr(name))):
        Group(name, 0, 0)


@given(st.text(max_size=60))
def test_a_name_is_safe_in_a_key_or_refused(name):
    try:
        group = Group(name, 0, 0)
    except ConfigError:
        return
    assert re.fullmatch(r"[a-z0-9_]{1,40}", group.name)


def test_labels_count_from_zero_and_biases_from_unknown():
    with pytest.raises(ConfigError, match="label is -1"):
        Group("a", -1, 0)
    with pytest.raises(ConfigError, match="bias is -2; use -1 for unknown"):
        Group("a", 0, -2)
    assert Group("a", 0, UNKNOWN_BIAS).bias == -1


def test_groups_keep_their_declared_order():
    groups = Groups.of([WATER_LAND, LAND_LAND])
    assert groups.names == ("waterbird_on_land", "landbird_on_land")
    assert list(groups) == [WATER_LAND, LAND_LAND]
    assert len(groups) == 2
    assert groups.classes == 2


def test_groups_are_declared_and_not_a_cross_product():
    groups = Groups.of([LAND_LAND, Group("waterbird_on_water", 1, 1)])
    assert groups.of_cell(0, 0) == LAND_LAND
    assert groups.of_cell(1, 0) is None


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["not_smiling_female", "not_smiling_male", "smiling_female", "smiling_male"], ("not_smiling", "smiling")),
        (["cat_indoor", "cat_sofa", "dog_indoor", "dog_sofa"], ("cat", "dog")),
        (["red_zero", "green_zero", "red_one", "green_one"], ("0", "1")),  # nothing in common
        (["digit_0_red", "digit_green", "digit_1_red", "digit_blue"], ("0", "1")),  # both "digit"
    ],
)
def test_classes_are_called_as_their_groups_begin(names, told):
    groups = Groups.of([Group(name, place // 2, place % 2) for place, name in enumerate(names)])
    assert groups.class_names == told


def test_a_class_without_a_group_leaves_numbers():
    assert Groups.of([Group("cat", 0, 0), Group("dog", 2, 0)]).class_names == ("0", "1", "2")


def test_what_makes_no_list_of_groups():
    with pytest.raises(ConfigError, match="declares no group"):
        Groups.of([])
    with pytest.raises(ConfigError, match="share the name 'landbird_on_land'"):
        Groups.of([LAND_LAND, Group("landbird_on_land", 1, 1)])
    with pytest.raises(ConfigError, match=r"share the \(label, bias\) \(0, 0\)"):
        Groups.of([LAND_LAND, Group("other", 0, 0)])


def test_an_unknown_name_lists_those_declared():
    with pytest.raises(ConfigError, match="no group 'mars'; declared are landbird_on_land, waterbird_on_land"):
        Groups.of([LAND_LAND, WATER_LAND]).by_name("mars")
    assert Groups.of([LAND_LAND, WATER_LAND]).by_name("waterbird_on_land") == WATER_LAND
