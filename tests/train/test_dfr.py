"""DFR against the same thing written with scikit-learn for one process, and what it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from small_sets import GROUPS, small_set

from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.models.architectures import SmallCNNConfig
from ffr_dist.models.classifier import build_classifier, load_weights, save_weights
from ffr_dist.models.heads import StandardisedHead, take_head
from ffr_dist.seeds import draw_seed
from ffr_dist.train.dfr import Samples, choose_strength, fit_head, mean_fit
from ffr_dist.train.stage import HeadStage, Source
from ffr_dist.train.world import world

SMALL = SmallCNNConfig(width=8)
STAGE = HeadStage(sources=(Source(set="real"),), fits=5)
TRAIN = small_set({"land_land": 30, "land_sea": 4, "sea_land": 3, "sea_sea": 30})
MORE = small_set({"land_land": 5, "sea_sea": 6}, seed=3)
VAL = small_set({"land_land": 21, "land_sea": 9, "sea_land": 8, "sea_sea": 20}, seed=5, split="val")
THREE = Groups.of([Group("land_land", 0, 0), Group("sea_sea", 1, 1), Group("air_land", 2, 0), Group("air_sea", 2, 1)])


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def unit_features(model, dataset):
    with torch.inference_mode():
        images = torch.from_numpy(dataset.pixels(range(len(dataset)))).permute(0, 3, 1, 2)
        features = model.features(images.float() / 255).double().numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def regression(strength):
    return LogisticRegression(l1_ratio=1.0, C=strength, solver="liblinear", max_iter=1000, random_state=0)


def drawn(groups, number, purpose):
    """Rows of each group in the order in which DFR draws them."""
    random = np.random.default_rng(draw_seed(7, "dfr", number, purpose))
    return random, [random.permutation(np.flatnonzero(groups == group)) for group in range(4)]


def reference(model, train, val, strengths, fits):
    """What METHODS say, for two classes; returns C, the worst group it was chosen by, and the mean regression's logits."""
    scaler = StandardScaler().fit(np.concatenate([unit_features(model, dataset) for dataset in train]))
    x, y, g = scaler.transform(unit_features(model, val)), val.labels, val.group_ids
    random, members = drawn(g, 0, "halves")
    seen = np.concatenate([rows[: (len(rows) + 1) // 2] for rows in members])
    unseen = np.concatenate([rows[(len(rows) + 1) // 2 :] for rows in members])
    shuffled = [seen[random.permutation(np.flatnonzero(g[seen] == group))] for group in range(4)]
    fewest = min(map(len, shuffled))
    balanced = np.concatenate([rows[:fewest] for rows in shuffled])
    best = (-1.0, -1.0, None)
    for strength in strengths:
        right = regression(strength).fit(x[balanced], y[balanced]).predict(x[unseen]) == y[unseen]
        accuracies = [right[g[unseen] == group].mean() for group in range(4)]
        if (min(accuracies), np.mean(accuracies)) > best[:2]:
            best = (min(accuracies), np.mean(accuracies), strength)
    coefficients, intercepts = [], []
    for number in range(fits):
        _, members = drawn(g, number, "subset")
        rows = np.concatenate([rows[: min(map(len, members))] for rows in members])
        one = regression(best[2]).fit(x[rows], y[rows])
        coefficients.append(one.coef_[0])
        intercepts.append(one.intercept_[0])
    return best, lambda images: scaler.transform(images) @ np.mean(coefficients, 0) + np.mean(intercepts)


def with_head(model, tensors):
    weights = {**model.state_dict(), **{f"head.{name}": value for name, value in tensors.items()}}
    take_head(model, weights)
    model.load_state_dict(weights)
    return model


def test_it_is_what_scikit_learn_makes_of_the_definition():
    model = build_classifier(SMALL, 2, 1).eval()
    found = fit_head(model, STAGE, [TRAIN, MORE], VAL, 7, world())
    (worst, mean, strength), log_odds = reference(model, [TRAIN, MORE], VAL, STAGE.strengths, STAGE.fits)
    assert (found.strength, *found.score.value) == pytest.approx((strength, worst, mean))
    wanted = log_odds(unit_features(model, TRAIN))
    images = torch.from_numpy(TRAIN.pixels(range(len(TRAIN)))).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        logits = with_head(model, found.tensors)(images).double().numpy()
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], wanted, rtol=1e-4, atol=1e-4)
    assert [row["strength"] for row in found.history] == list(STAGE.strengths)


def test_the_head_is_the_mean_of_its_fits():
    samples = noise(40)
    each = []
    for number in range(3):
        random = np.random.default_rng(draw_seed(0, "dfr", number, "subset"))
        balanced = samples.balanced(random)
        assert np.bincount(balanced.groups).tolist() == [5, 5, 5, 5]
        each.append(regression(0.3).fit(balanced.features, balanced.labels))
    weight, bias = mean_fit(samples, 0.3, 3, 0)
    np.testing.assert_allclose(weight, np.mean([one.coef_ for one in each], 0), atol=1e-9)
    np.testing.assert_allclose(bias, np.mean([one.intercept_ for one in each], 0), atol=1e-9)


def noise(count, width=200):
    """Labels that no feature tells, and more features than samples: whatever is fitted is fitted by heart."""
    random = np.random.default_rng(0)
    groups = np.array([0] * (count - 15) + [1] * 5 + [2] * 5 + [3] * 5)
    return Samples(random.standard_normal((count, width)), groups // 2, groups, GROUPS.names)


def test_the_reported_score_is_of_samples_that_the_fit_has_not_seen():
    samples = noise(80)
    strength, score, _ = choose_strength(samples, [3.0], 0)
    by_heart = regression(strength).fit(samples.features, samples.labels)
    assert by_heart.score(samples.features, samples.labels) == 1
    assert score.value[0] < 0.8
    assert score.detail["val_n_worst"] <= 33


def test_halves_part_every_group_and_share_no_sample():
    samples = noise(40)
    marked = Samples(np.arange(40.0)[:, None], samples.labels, samples.groups, samples.names)
    first, second = marked.halves(np.random.default_rng(0))
    assert np.bincount(first.groups).tolist() == [13, 3, 3, 3]
    assert np.bincount(second.groups).tolist() == [12, 2, 2, 2]
    assert sorted([*first.features[:, 0], *second.features[:, 0]]) == list(range(40))


def test_of_equal_scores_the_first_strength_is_chosen():
    random = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2, 3], 10)
    features = random.standard_normal((40, 3)) + 20 * (groups // 2)[:, None]
    strength, score, history = choose_strength(Samples(features, groups // 2, groups, GROUPS.names), [3.0, 1.0, 0.3], 0)
    assert (strength, score.value) == (3.0, (1.0, 1.0))
    assert [row["held_out"] for row in history] == [[1.0, 1.0]] * 3


def test_of_more_than_two_classes_each_is_told_from_the_rest():
    train = small_set(dict.fromkeys(THREE.names, 12), groups=THREE)
    val = small_set(dict.fromkeys(THREE.names, 8), groups=THREE, seed=1, split="val")
    model = build_classifier(SMALL, 3, 0).eval()
    found = fit_head(model, HeadStage(sources=STAGE.sources, strengths=(1.0,), fits=1), [train], val, 0, world())
    scaler = StandardScaler().fit(unit_features(model, train))
    x = scaler.transform(unit_features(model, val))
    # All groups are of equal size: the subset is the whole.
    expected = OneVsRestClassifier(regression(1.0)).fit(x, val.labels)
    images = torch.from_numpy(val.pixels(range(len(val)))).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        logits = with_head(model, found.tensors)(images).numpy()
    np.testing.assert_allclose(logits, expected.decision_function(x), rtol=0.02, atol=0.02)
    assert (logits.argmax(1) == expected.predict(x)).all()


def test_a_feature_that_never_changes_is_left_alone():
    model = build_classifier(SMALL, 2, 0).eval()
    with torch.no_grad():
        model.features[-3].weight[0], model.features[-3].bias[0] = 0, 0  # group normalisation: a channel of zeros
    found = fit_head(model, STAGE, [TRAIN], VAL, 0, world())
    assert found.tensors["scale"][:16].tolist() == [1.0] * 16
    assert all(value.isfinite().all() for value in found.tensors.values())
    with torch.no_grad():
        model.features[-3].weight.zero_()
        model.features[-3].bias.fill_(0.7)  # all alike, and not zero
    found = fit_head(model, STAGE, [TRAIN], VAL, 0, world())
    assert set(found.tensors["scale"].tolist()) == {1.0}


def test_the_head_comes_back_from_the_weights():
    model = build_classifier(SMALL, 2, 0).eval()
    found = fit_head(model, STAGE, [TRAIN], VAL, 0, world())
    model = with_head(model, found.tensors)
    again = build_classifier(SMALL, 2, 4).eval()
    weights = load_weights(save_weights(model))
    take_head(again, weights)
    again.load_state_dict(weights)
    assert isinstance(again.head, StandardisedHead)
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(again(images), model(images))
    plain = build_classifier(SMALL, 2, 0)
    take_head(plain, plain.state_dict())
    assert isinstance(plain.head, torch.nn.Linear)


@pytest.mark.parametrize(
    ("val", "told"),
    [
        (small_set({**dict.fromkeys(GROUPS.names, 5), "sea_land": 1}), r"too few samples of group sea_land \(1\)"),
        (small_set({"land_land": 5, "land_sea": 5, "sea_sea": 5}), r"too few samples of group sea_land \(0\)"),
        (
            small_set(
                {"land": 5, "sea": 5}, groups=Groups.of([Group("land", 0, -1), Group("sea", 1, -1)]), split="val"
            ),
            "nobody knows the bias .* land, sea",
        ),
        (
            small_set({"land": 5}, groups=Groups.of([Group("land", 0, 0)]), split="val"),
            r"the classes \[0\], the model \[0, 1\]",
        ),
    ],
)
def test_a_validation_set_that_cannot_be_balanced_is_refused(val, told):
    with pytest.raises(DataError, match=told):
        fit_head(build_classifier(SMALL, 2, 0), STAGE, [TRAIN], val, 0, world())
