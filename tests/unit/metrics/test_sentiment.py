"""Golden vectors printed by the field's own code, and scipy and scikit-learn on random data."""

import math
import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, r2_score
from torch import Tensor

import msa_lightning.metrics as metrics

Metric = Callable[[Tensor, Tensor], Tensor]
ALL = sorted(set(metrics.__all__) - {"SplitMetrics"})

MOSI = (
    [-3.4, -2.5, -1.5, -0.5, -0.2, 0, 0, 0.3, 0.5, 1.5, 2.5, 3.6, -0.0, 0.9],
    [-3, -2.6, -1.2, -0.4, 0, 0, 0.4, -0.2, 0.6, 1.6, 2.4, 3, 0, 0],
)
ALL_ZERO = ([0, 0, 0, 0, 0, 0], [-1, -0.2, 0, 0.2, 1, 3])
SIMS = (
    [-1.5, -0.75, -0.3, -0.05, 0, 0.05, 0.1, 0.11, 0.65, 0.71, 1.2, -0.1],
    [-1, -0.8, -0.2, 0, 0.2, 0, -0.2, 0.4, 0.6, 0.8, 1, -0.6],
)


def value(name: str, prediction: object, target: object) -> float:
    metric: Metric = getattr(metrics, name)
    result = metric(*(torch.as_tensor(x, dtype=torch.float32) for x in (prediction, target)))
    assert result.shape == ()
    assert result.dtype == torch.float32
    return float(result)


def random_split(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Correlated values on a grid of 0.1, so that zeros, edges and halves are common."""
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 1.5, n)
    prediction = target + rng.normal(0, 1, n)
    return prediction.round(1).astype(np.float32), target.round(1).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "acc2_has0": 0.8571,
        "f1_has0": 0.8571,
        "acc2_non0": 0.8,
        "f1_non0": 0.8,
        "f1_non0_swapped": 0.8,
        "acc5": 0.7857,
        "acc7": 0.7143,
        "mae": 0.2714,
        "corr": 0.9804,
        "acc2_zero_negative": 0.7857,
        "f1_zero_negative_swapped": 0.7823,
        "f1_zero_negative": 0.7892,
        "mag_acc2": 0.9,
        "mag_mae": 0.27,
        "mag_corr": 0.9901,
    }.items(),
)
def test_golden_mosi(name: str, expected: float) -> None:
    assert round(value(name, *MOSI), 4) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "acc2_has0": 0.6667,
        "f1_has0": 0.5333,
        "acc2_non0": 0.4,
        "f1_non0": 0.2286,
        "acc5": 0.5,
        "acc7": 0.5,
        "mae": 0.9,
        "corr": math.nan,
    }.items(),
)
def test_golden_constant_prediction(name: str, expected: float) -> None:
    assert round(value(name, *ALL_ZERO), 4) == pytest.approx(expected, abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "sims_acc2": 0.75,
        "sims_acc3": 0.8333,
        "sims_acc5": 0.8333,
        "sims_f1": 0.7517,
        "sims_mae": 0.14,
        "sims_corr": 0.9415,
        "sims_acc2_weak": 0.5,
        "sims_r2": 0.8849,
    }.items(),
)
def test_golden_sims(name: str, expected: float) -> None:
    assert round(value(name, *SIMS), 4) == expected


def test_golden_swapped_f1_flatters_a_model_that_says_positive() -> None:
    rng = np.random.default_rng(0)
    target = np.where(rng.random(1000) < 0.5, 1, -1)
    prediction = np.where(rng.random(1000) < 0.97, 1, -1)
    for family in ("non0", "has0", "zero_negative"):
        assert round(value(f"f1_{family}", prediction, target), 4) == 0.3286
        assert round(value(f"f1_{family}_swapped", prediction, target), 4) == 0.6174


@pytest.mark.parametrize("seed", range(5))
def test_two_class_families_equal_sklearn(seed: int) -> None:
    p, y = random_split(seed)
    kept = y != 0
    assert 0 < kept.sum() < len(y)
    assert (p == 0).any()
    families = {
        "{}_non0": (p[kept] > 0, y[kept] > 0),
        "{}_has0": (p >= 0, y >= 0),
        "{}_zero_negative": (p > 0, y > 0),
        "mag_{}": (p[kept] >= 0, y[kept] >= 0),
        "sims_{}": (p > 0, y > 0),
    }
    for name, (guess, truth) in families.items():
        accuracy, f1 = accuracy_score(truth, guess), f1_score(truth, guess, average="weighted")
        assert value(name.format("acc2"), p, y) == pytest.approx(accuracy, abs=1e-6)
        assert value(name.format("f1"), p, y) == pytest.approx(f1, abs=1e-6)
        if not name.endswith("{}"):
            swapped = f1_score(guess, truth, average="weighted")
            assert value(f"{name.format('f1')}_swapped", p, y) == pytest.approx(swapped, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_rounded_accuracies_equal_numpy(seed: int) -> None:
    p, y = random_split(seed)
    for name, bound in {"acc7": 3, "acc5": 2, "acc3": 1}.items():
        expected = np.mean(
            np.round(np.clip(p, -bound, bound)) == np.round(np.clip(y, -bound, bound))
        )
        assert value(name, p, y) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_regression_equals_numpy_and_scipy(seed: int) -> None:
    p, y = random_split(seed)
    kept, clipped = y != 0, (p.clip(-1, 1), y.clip(-1, 1))
    for family, (guess, truth) in {
        "{}": (p, y),
        "nonzero_{}": (p[kept], y[kept]),
        "mag_{}": (p[kept], y[kept]),
        "sims_{}": clipped,
    }.items():
        mae, corr = np.abs(guess - truth).mean(), pearsonr(guess, truth).statistic
        assert value(family.format("mae"), p, y) == pytest.approx(mae, abs=1e-6)
        assert value(family.format("corr"), p, y) == pytest.approx(corr, abs=1e-6)
    assert value("sims_r2", p, y) == pytest.approx(r2_score(clipped[1], clipped[0]), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_sims_bins_equal_the_loop_of_mmsa(seed: int) -> None:
    p, y = (x / 3 for x in random_split(seed))
    p[:7] = y[7:14] = np.array([-1, -0.7, -0.1, 0, 0.1, 0.7, 1], dtype=np.float32)

    def bins(values: np.ndarray, edges: list[float]) -> np.ndarray:
        binned, values = np.full(len(values), -1), values.clip(-1, 1)
        for i, (low, high) in enumerate(pairwise(edges)):
            binned[(values > low) & (values <= high)] = i
        assert (binned >= 0).all()
        return binned

    for name, edges in {
        "sims_acc2": [-1.01, 0, 1.01],
        "sims_acc3": [-1.01, -0.1, 0.1, 1.01],
        "sims_acc5": [-1.01, -0.7, -0.1, 0.1, 0.7, 1.01],
    }.items():
        assert value(name, p, y) == pytest.approx(np.mean(bins(p, edges) == bins(y, edges)))
    weak = np.abs(y) <= np.float32(0.4)
    expected = np.mean((p > 0)[weak] == (y > 0)[weak])
    assert value("sims_acc2_weak", p, y) == pytest.approx(expected)


CLASSES = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.tuples(st.integers(0, k), st.integers(0, k)), min_size=1, max_size=40)
)


@settings(max_examples=60, deadline=None)
@given(CLASSES)
def test_class_metrics_equal_sklearn(pairs: list[tuple[int, int]]) -> None:
    p, y = map(list, zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn, on classes that do not occur
        assert value("accuracy", p, y) == pytest.approx(accuracy_score(y, p), abs=1e-6)
        for average in ("weighted", "macro"):
            expected = f1_score(y, p, average=average, zero_division=0)
            assert value(f"f1_{average}", p, y) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_accuracy_equals_balanced_accuracy(seed: int) -> None:
    p, y = random_split(seed)
    expected = balanced_accuracy_score(y > 0, p > 0)
    assert value("weighted_accuracy", p, y) == pytest.approx(expected, abs=1e-6)


FLOATS = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=40))
def test_corr_equals_scipy_or_is_nan(pairs: list[tuple[float, float]]) -> None:
    p, y = (np.array(x) for x in zip(*pairs, strict=True))
    result = value("corr", p, y)
    if np.ptp(p) == 0 or np.ptp(y) == 0:
        assert math.isnan(result)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy, on nearly constant input
            expected = np.clip(pearsonr(p, y).statistic, -1, 1)
        assert result == pytest.approx(expected, abs=1e-5)


def test_corr_is_accurate_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    y = (1e4 + rng.normal(0, 0.1, 1000)).astype(np.float32)
    p = (y + rng.normal(0, 0.1, 1000)).astype(np.float32)
    expected = pearsonr(p.astype(np.float64), y.astype(np.float64)).statistic
    assert value("corr", p, y) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["corr", "nonzero_corr", "sims_corr"])
@pytest.mark.parametrize("constant", [0.1, 1e-30, -1 / 3, 12345.678])
def test_corr_of_a_constant_is_nan(name: str, constant: float) -> None:
    y = torch.linspace(-0.9, 0.9, 997)
    assert math.isnan(value(name, torch.full_like(y, constant), y))
    assert math.isnan(value(name, y, torch.full_like(y, constant)))


def test_sims_corr_is_nan_when_clipping_makes_the_prediction_constant() -> None:
    p, y = torch.tensor([1.5, 2.0, 3.0]), torch.tensor([0.1, -0.3, 0.8])
    assert math.isnan(value("sims_corr", p, y))
    assert not math.isnan(value("corr", p, y))


def test_half_rounds_to_even() -> None:
    # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, -0.5 -> 0: rounding half up would give 1, 2, 3, 0
    halves = [0.5, 1.5, 2.5, -0.5]
    assert value("acc7", halves, [0, 2, 2, 0]) == 1
    assert value("acc7", halves, [1, 1, 3, -1]) == 0


def test_rounded_accuracies_clip_both_sides() -> None:
    assert value("acc7", [9, 3], [3, -9]) == 0.5
    assert value("acc5", [3, 2], [2, 3]) == 1
    assert value("acc3", [3, 2], [1, -1]) == 0.5


def test_sdk_bins_go_outward() -> None:
    values = [-2.1, -2, -1.5, -1, -0.01, -0.0, 0, 0.33, 1, 1.01, 2, 2.01, 9]
    classes = [-3, -2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 3, 3]
    for x, x_class in zip(values, classes, strict=True):
        for y, y_class in zip(values, classes, strict=True):
            assert value("acc7_sdk", [x], [y]) == (x_class == y_class)
    assert value("acc7_sdk", [0.33], [0]) == 0
    assert value("acc7", [0.33], [0]) == 1


@pytest.mark.parametrize(
    ("name", "edge", "below", "above"),
    [
        ("sims_acc3", -0.1, -1, 0),
        ("sims_acc3", 0.1, 0, 1),
        ("sims_acc5", -0.7, -1, -0.5),
        ("sims_acc5", -0.1, -0.5, 0),
        ("sims_acc5", 0.1, 0, 0.5),
        ("sims_acc5", 0.7, 0.5, 1),
    ],
)
def test_a_float32_edge_belongs_to_the_lower_bin(
    name: str, edge: float, below: float, above: float
) -> None:
    just_above = np.nextafter(np.float32(edge), np.float32(2))
    assert value(name, [edge, just_above], [below, above]) == 1
    assert value(name, [edge, just_above], [above, below]) == 0


def test_weak_band_holds_its_float32_ends() -> None:
    beyond = float(np.nextafter(np.float32(0.4), np.float32(1)))
    assert value("sims_acc2_weak", [1, 1, 1], [0.4, -0.4, -beyond]) == 0.5


def test_zero_counts_as_each_convention_says() -> None:
    positive, zero = [1.0], [0.0]
    assert value("acc2_non0", zero, positive) == 0
    assert value("mag_acc2", zero, positive) == 1
    assert value("acc2_has0", zero, positive) == 1
    assert value("acc2_zero_negative", zero, positive) == 0
    assert value("sims_acc2", zero, positive) == 0
    assert value("acc2_has0", positive, zero) == 1
    assert value("acc2_zero_negative", positive, zero) == 0
    for dropped in ("acc2_non0", "f1_non0", "f1_non0_swapped", "mag_acc2", "mag_f1", "mag_mae"):
        assert math.isnan(value(dropped, positive, zero))


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_defined_without_samples(name: str) -> None:
    assert math.isnan(value(name, [], []))


@pytest.mark.parametrize("name", ["corr", "nonzero_corr", "sims_corr", "sims_r2"])
def test_one_sample_has_no_correlation(name: str) -> None:
    assert math.isnan(value(name, [0.5], [0.4]))


def test_r2_of_a_constant_truth_is_nan() -> None:
    assert math.isnan(value("sims_r2", [0.1, 0.2], [0.3, 0.3]))
    assert math.isnan(value("sims_r2", [0.1, 0.2], [1.0, 2.0]))


def test_weighted_accuracy_needs_both_kinds() -> None:
    assert math.isnan(value("weighted_accuracy", [1, 0], [1, 1]))
    assert math.isnan(value("weighted_accuracy", [1, 0], [0, 0]))


@pytest.mark.parametrize("name", sorted(set(ALL) - {"f1_weighted", "f1_macro"}))
def test_the_order_of_the_samples_does_not_matter(name: str) -> None:
    p, y = random_split(0)
    expected = value(name, p, y)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(y))
        assert value(name, p[order], y[order]) == expected


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_left_alone(name: str) -> None:
    p, y = torch.tensor([0.0, 2.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 2.0, 1.0])
    value(name, p, y)
    assert p.tolist() == [0, 2, 1, 1]
    assert y.tolist() == [1, 0, 2, 1]
