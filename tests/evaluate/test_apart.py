"""The real-or-fake probe has the error that it claims; distances are what their closed forms say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.evaluate.audit.distances import discrepancy, feature_distances, frechet, principal_axes
from ffr_dist.evaluate.audit.real_or_fake import tell_apart


def drawn(seed, shift=0.0, scale=1.0, count=40, width=30, groups=("a", "b")):
    """Normal features; groups lie far from each other, which must not help."""
    rng = np.random.default_rng(seed)
    return {
        name: (10 * place + shift + scale * rng.standard_normal((count, width))).astype(np.float32)
        for place, name in enumerate(groups)
    }


def test_with_nothing_to_tell_p_is_even():
    """Real and generated images from one source: p is below each level as often as the level says."""
    ps = np.array([tell_apart(drawn(2 * n), drawn(2 * n + 1), n).p for n in range(150)])
    for level in (0.1, 0.3, 0.5):
        share = (ps <= level).mean()
        assert abs(share - level) < 3.5 * np.sqrt(level * (1 - level) / 150) + 0.05  # accuracies are coarse: ties
    null = [tell_apart(drawn(2 * n), drawn(2 * n + 1), n) for n in range(3)]
    assert all(one.null_low < 0.5 < one.null_high for one in null)
    assert "does not say that there is none" in null[0].advice or null[0].p <= 0.05


def test_a_small_shift_of_all_is_found():
    found = tell_apart(drawn(0), drawn(1, shift=0.5), 0)
    assert found.accuracy > found.null_high
    assert found.p == 0.001
    assert found.count == 80
    assert "can be told from real ones" in found.advice
    assert tell_apart(drawn(0), drawn(1, shift=0.5), 0) == found


def test_the_balance_of_groups_gives_nothing_away():
    real, generated = drawn(0, count=60), drawn(1, count=60)
    real["a"], generated["b"] = real["a"][:12], generated["b"][:12]
    found = tell_apart(real, generated, 0)
    assert found.count == 24  # as many of each kind in each group
    assert found.p > 0.01


def test_too_few_to_ask():
    assert tell_apart(drawn(0, count=3), drawn(1, count=3), 0) is None
    assert tell_apart(drawn(0), {"c": np.zeros((9, 30), np.float32)}, 0) is None
    same = {name: np.zeros((40, 30), np.float32) for name in "ab"}
    assert tell_apart(same, same, 0).accuracy == 0.5


@given(st.integers(0, 10**6), st.integers(6, 12), st.integers(6, 9), st.integers(1, 4))
def test_frechet_as_its_definition(seed, ours, theirs, width):
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(seed)
    a, b = rng.normal(1, 2, (ours, width)), rng.normal(0, 1, (theirs, width)) @ rng.normal(size=(width, width))
    first, second = (np.cov(one, rowvar=False).reshape(width, width) for one in (a, b))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_of_normals_by_hand():
    values = np.random.default_rng(0).normal(size=(30, 2))
    values = (values - values.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(values, rowvar=False))).T
    # Of unit variances, and one moved by 3 and spread by 2 along the first axis: the squares of both differences.
    assert frechet(values, values * (2, 1) + (3, 0)) == pytest.approx(9 + 1)


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 6))
def test_kernel_distance_pair_by_pair(seed, ours, theirs):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(ours, 3)), rng.normal(1, 1, (theirs, 3))

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    within = [np.mean([kernel(x, y) for i, x in enumerate(one) for j, y in enumerate(one) if i != j]) for one in (a, b)]
    expected = sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    values = np.concatenate([a, b])
    rows = np.split(np.arange(len(values)), [ours])
    assert discrepancy((values @ values.T / 3 + 1) ** 3, *rows) == pytest.approx(expected, abs=1e-9)


def test_principal_axes_as_sklearns():
    from sklearn.decomposition import PCA

    values = np.random.default_rng(0).normal(size=(20, 50)) * np.linspace(3, 1, 50)
    found, theirs = principal_axes(values, 4), PCA(4).fit_transform(values)
    np.testing.assert_allclose(np.abs(found), np.abs(theirs), atol=1e-9)
    np.testing.assert_allclose(frechet(found[:10], found[10:]), frechet(theirs[:10], theirs[10:]), atol=1e-6)


def test_the_floor_is_what_real_images_have_among_themselves():
    found = feature_distances(drawn(0, count=80), drawn(1, count=80), 0)
    assert [one.group for one in found] == ["a", "b"]
    for one in found:
        assert (one.real, one.generated) == (40, 40)
        assert one.fd_low <= one.fd <= one.fd_high
        assert one.kid_low <= one.kid <= one.kid_high
        assert one.fd / one.fd_real == pytest.approx(1, abs=0.15)
        assert one.kid_low < 0 < one.kid_high
    away = feature_distances(drawn(0, count=80), drawn(1, shift=1.0, count=80), 0)
    for one, far in zip(found, away, strict=True):
        assert far.fd_low > one.fd_high
        assert far.kid_low > one.kid_high
        assert far.fd_real == pytest.approx(one.fd_real, rel=0.1)  # along other axes
        assert far.kid_real == one.kid_real
    assert feature_distances(drawn(0, count=80), drawn(1, count=80), 0) == found


def test_intervals_hold_the_distance_of_other_draws():
    """Of twenty sets like these, nearly all have their distance in the interval that the first one gives."""
    first = feature_distances(drawn(100, count=60, groups="a"), drawn(101, 0.3, count=60, groups="a"), 0)[0]
    others = [
        feature_distances(drawn(2 * n, count=60, groups="a"), drawn(2 * n + 1, 0.3, count=60, groups="a"), 0)[0]
        for n in range(20)
    ]
    width = first.kid_high - first.kid_low
    spread = np.std([one.kid for one in others], ddof=1)
    assert 0.4 < width / (2 * 1.96 * spread) < 2.5
    width, spread = first.fd_high - first.fd_low, np.std([one.fd for one in others], ddof=1)
    assert 0.4 < width / (2 * 1.96 * spread) < 2.5


def test_groups_of_few_images_have_no_distance():
    assert feature_distances(drawn(0, count=7), drawn(1, count=80), 0) == ()
    assert len(feature_distances(drawn(0, count=8), drawn(1, count=80), 0)) == 2
