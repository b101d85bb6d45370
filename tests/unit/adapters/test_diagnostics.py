"""What an adapter did to its space: against numpy, scikit-learn, and cases known beforehand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from msa_lightning.adapters.alignment import MMD
from msa_lightning.adapters.diagnostics import (
    collapse,
    coral_distance,
    mmd_distance,
    neighbour_overlap,
    r2,
    variance_ratio,
)


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def test_collapse_is_the_quartiles_of_the_variance_ratios() -> None:
    targets = normal(50, 9, 0, scale=3)
    adapted = normal(80, 9, 1) * torch.arange(9)
    ratio = np.var(adapted.numpy(), 0, ddof=1) / np.var(targets.numpy(), 0, ddof=1)
    expected = dict(
        zip(("q25", "median", "q75"), np.quantile(ratio, [0.25, 0.5, 0.75]), strict=True)
    )
    assert collapse(adapted, targets) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(variance_ratio(adapted, targets), ratio, rtol=1e-5)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.25)])
def test_collapse_of_scaled_targets_is_the_squared_scale(scale: float, expected: float) -> None:
    targets = normal(30, 4, 0)
    found = collapse(scale * targets + 7, targets)
    assert found == pytest.approx(dict.fromkeys(found, expected), abs=1e-5)


def test_collapse_leaves_constant_target_dimensions_out() -> None:
    targets = normal(30, 3, 0)
    targets[:, 1] = 0.3
    assert variance_ratio(normal(30, 3, 1), targets).isnan().tolist() == [False, True, False]
    found = collapse(normal(30, 3, 1), targets)
    assert found["q75"] < 10
    targets[:] = 0.3
    assert all(math.isnan(x) for x in collapse(normal(30, 3, 1), targets).values())


def test_coral_distance_is_that_of_the_covariances() -> None:
    a, t = normal(1000, 5, 0, scale=2), normal(1000, 5, 1)
    apart = np.cov(a.numpy().T) - np.cov(t.numpy().T)
    assert coral_distance(a, t) == pytest.approx(np.square(apart).sum() / 100, rel=0.03)
    assert coral_distance(normal(500, 5, 2), normal(500, 5, 3)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("measure", [coral_distance, mmd_distance])
def test_distances_compare_at_most_1000_vectors(measure: Callable[..., float]) -> None:
    a, t = normal(1500, 3, 0, scale=2), normal(1200, 3, 1, shift=1)
    found = measure(a, t)
    assert found == measure(a, t)
    assert found != measure(a, t, seed=1)
    assert found == pytest.approx(measure(a, t, seed=1), rel=0.25)


def test_mmd_distance_of_few_vectors_is_that_of_all() -> None:
    a, t = normal(200, 3, 0).double(), normal(300, 3, 1, shift=1).double()
    assert mmd_distance(a, t) == pytest.approx(MMD()(a, t).item())


def test_neighbour_overlap_is_that_of_scikit_learn() -> None:
    a, t = normal(60, 3, 0), normal(60, 3, 1, shift=0.5)
    union = torch.cat([a, t]).double().numpy()
    nearest = NearestNeighbors(n_neighbors=2).fit(union).kneighbors(union[:60])[1][:, 1]
    assert neighbour_overlap(a, t) == pytest.approx(np.mean(nearest >= 60))


def test_neighbour_overlap_of_one_distribution_is_a_half() -> None:
    assert neighbour_overlap(normal(1000, 4, 0), normal(3000, 4, 1)) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("adapted", [normal(90, 4, 0, shift=50), torch.full((90, 4), 0.1)])
def test_neighbour_overlap_of_separate_or_constant_vectors_is_0(adapted: Tensor) -> None:
    assert neighbour_overlap(adapted, normal(70, 4, 1)) == 0


def test_neighbour_overlap_of_the_targets_themselves_is_1() -> None:
    targets = normal(70, 4, 1)
    assert neighbour_overlap(targets.flip(0) + 1e-6, targets) == 1


def test_r2_is_that_of_scikit_learn_on_clips_with_a_counterpart() -> None:
    pairs = normal(40, 5, 0)
    adapted = pairs + normal(40, 5, 1, scale=0.7)
    pairs[3], pairs[7, 2] = torch.nan, torch.nan
    real = np.setdiff1d(np.arange(40), [3, 7])
    assert r2(adapted, pairs) == pytest.approx(r2_score(pairs[real], adapted[real]), rel=1e-5)


def test_r2_of_the_mean_is_0_and_of_the_truth_1() -> None:
    pairs = normal(40, 5, 0)
    assert r2(pairs.mean(0).expand(40, 5), pairs) == pytest.approx(0, abs=1e-6)
    assert r2(pairs, pairs) == 1


def test_r2_leaves_constant_dimensions_out() -> None:
    pairs = normal(40, 5, 0)
    adapted = pairs + 0.1
    expected = r2(adapted[:, :4], pairs[:, :4])
    pairs[:, 4] = 0.3
    assert r2(adapted, pairs) == pytest.approx(expected)


def test_what_is_undefined_is_nan() -> None:
    one, some = normal(1, 3, 0), normal(9, 3, 1)
    missing = torch.full((9, 3), torch.nan)
    for value in (
        *collapse(one, some).values(),
        coral_distance(some[:3], some),
        mmd_distance(one, some),
        neighbour_overlap(one, some),
        r2(some, missing),
        r2(some, torch.ones(9, 3)),
    ):
        assert math.isnan(value)
