"""Intervals and p values, against scipy, hand examples and simulation."""

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from msa_lightning.metrics import acc2_non0, corr, f1_has0, mae
from msa_lightning.reporting import stats

MANY = 10**9  # clusters; their number is no longer corrected for

ZERO = np.zeros(1)


def bias(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).mean()


def sample(n: int, seeds: int = 1, seed: int = 0) -> tuple[stats.FloatArray, stats.FloatArray]:
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=n).astype(np.float32)
    return (labels + rng.normal(size=(seeds, n))).astype(np.float32), labels


def test_mean_and_sample_sd() -> None:
    mean, sd = stats.mean_sd([1.0, 2.0, 4.0])
    assert (mean, sd) == pytest.approx((7 / 3, np.sqrt(7 / 3)))
    assert stats.mean_sd([2.0])[0] == 2
    assert np.isnan(stats.mean_sd([2.0])[1])
    assert np.isnan(stats.mean_sd([1.0, np.nan, 2.0])).all()


def test_draw_takes_whole_clusters_and_as_many() -> None:
    clusters = np.array(["a", "b", "a", "c", "b", "a"])
    draws = stats.draw(clusters, 200, seed=1)
    for rows in draws:
        counts = np.bincount(rows, minlength=6)
        drawn = {c: set(counts[clusters == c]) for c in "abc"}
        assert all(len(times) == 1 for times in drawn.values())
        assert sum(times.pop() for times in drawn.values()) == 3
    assert len({len(rows) for rows in draws}) > 1


def test_draw_is_reproducible() -> None:
    ids = np.arange(50).astype(str)
    first, again, other = (np.stack(stats.draw(ids, 3, seed)) for seed in (4, 4, 5))
    assert (first == again).all()
    assert (first != other).any()


def test_scores_are_the_convention_of_each_seed() -> None:
    predictions, labels = sample(40, seeds=3)
    for metric in (mae, corr, f1_has0):
        expected = [metric(torch.tensor(p), torch.tensor(labels)).item() for p in predictions]
        assert stats.scores(metric, predictions, labels).tolist() == expected


def test_undefined_scores_are_nan() -> None:
    predictions, labels = sample(10, seeds=3)
    predictions[1, 0], predictions[2] = np.nan, 1.0
    given = stats.scores(corr, predictions, labels)
    assert np.isnan(given).tolist() == [False, True, True]
    assert np.isnan(stats.scores(f1_has0, predictions, labels)).tolist() == [False, True, False]
    assert np.isnan(stats.scores(acc2_non0, predictions, np.zeros(10, np.float32))).all()
    assert np.isnan(stats.scores(mae, predictions[:, :0], labels[:0])).all()


def test_replicates_average_the_seeds() -> None:
    predictions, labels = sample(30, seeds=4)
    draws = stats.draw(np.arange(30).astype(str), 20, seed=0)
    each = [stats.replicates(mae, p[None], labels, draws) for p in predictions]
    assert stats.replicates(mae, predictions, labels, draws) == pytest.approx(np.mean(each, axis=0))


@pytest.mark.parametrize("metric", [mae, corr, f1_has0])
def test_interval_over_clips_equals_scipy(metric: stats.Metric) -> None:
    predictions, labels = sample(150)
    draws = stats.draw(np.arange(150).astype(str), 3000, seed=0)
    low, high = stats.interval(stats.replicates(metric, predictions, labels, draws), MANY)

    def statistic(p: stats.FloatArray, y: stats.FloatArray) -> float:
        return metric(torch.tensor(p), torch.tensor(y)).item()

    expected = scipy.stats.bootstrap(
        (predictions[0], labels), statistic, paired=True, vectorized=False, n_resamples=3000,
        method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    width = expected.high - expected.low
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.06 * width)


def test_interval_over_videos_equals_scipy_on_equal_videos() -> None:
    """The mean over clips of equally long videos is the mean over videos of their means."""
    predictions, labels = sample(200)
    draws = stats.draw(np.repeat(np.arange(20), 10), 3000, seed=0)
    low, high = stats.interval(stats.replicates(bias, predictions, labels, draws), MANY)
    means = (predictions[0] - labels).astype(np.float64).reshape(20, 10).mean(1)
    expected = scipy.stats.bootstrap(
        (means,), np.mean, n_resamples=3000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = expected.high - expected.low
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.06 * width)


@pytest.mark.slow
def test_intervals_cover_only_with_whole_videos_and_their_number() -> None:
    """Of 400 corpora of 12 videos with 6 clips each that share their video's error."""
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(12), 6)
    hits, p = {"corrected": 0, "plain": 0, "clips": 0}, []
    by_video, by_clip = (stats.draw(units, 300, seed=0) for units in (videos, np.arange(72)))
    labels = np.zeros(72, np.float32)
    for _ in range(400):
        error = (rng.normal(size=12)[videos] + rng.normal(0, 0.5, 72)).astype(np.float32)[None]
        over_videos, over_clips = (
            stats.replicates(bias, error, labels, draws) for draws in (by_video, by_clip)
        )
        intervals = {
            "corrected": stats.interval(over_videos, 12),
            "plain": stats.interval(over_videos, MANY),
            "clips": stats.interval(over_clips, 72),
        }
        for name, (low, high) in intervals.items():
            hits[name] += low <= 0 <= high
        p.append(stats.paired_test(over_videos, 12, error.mean(1), ZERO)[2])
    assert 0.92 <= hits["corrected"] / 400 <= 0.97
    assert hits["plain"] < hits["corrected"] - 10
    assert hits["clips"] / 400 < 0.75
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07
    assert np.mean(np.array(p) < 0.01) <= 0.02


def test_nothing_is_claimed_from_one_video_or_undefined_resamples() -> None:
    predictions, labels = sample(20)
    assert stats.draw(["one"] * 20, 100, seed=0) == []
    for values in (np.array([]), np.array([0.1, np.nan, 0.3])):
        assert np.isnan(stats.interval(values, 2)).all()
        assert np.isnan(stats.paired_test(values, 2, np.array([0.2, 0.3]), ZERO)).all()
    constant = np.ones_like(predictions)
    draws = stats.draw(np.arange(20).astype(str), 10, seed=0)
    assert np.isnan(stats.interval(stats.replicates(corr, constant, labels, draws), 20)).all()


def test_paired_difference_has_the_right_sign_and_is_paired() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=300).astype(np.float32)
    error = rng.normal(0, 1, size=(2, 300)).astype(np.float32)
    good, bad = labels + error, labels + 1.05 * error  # 5 % worse on each clip
    videos = np.repeat(np.arange(60), 5)
    draws = stats.draw(videos, 500, seed=0)
    own, other = (stats.replicates(mae, p, labels, draws) for p in (good, bad))
    seeds = [stats.scores(mae, p, labels) for p in (good, bad)]
    low, high, p = stats.paired_test(own - other, 60, *(x.mean(keepdims=True) for x in seeds))
    assert low < seeds[0].mean() - seeds[1].mean() < high < 0
    assert p < 1e-6
    unpaired = stats.replicates(mae, bad, labels, stats.draw(videos, 500, seed=1))
    assert stats.paired_test(own - unpaired, 60, *seeds)[2] > 0.05
    assert stats.paired_test(own - own, 60, ZERO, ZERO) == (0, 0, 1)
    assert stats.paired_test(own - own + 1, 60, ZERO + 1, ZERO) == (1, 1, 0)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_paired_test_equals_scipy_on_equal_videos(shift: float) -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(shift, 0.5, size=(2, 20, 1))
    errors = (means + rng.normal(0, 0.1, size=(2, 20, 10))).reshape(2, 200).astype(np.float32)
    labels, draws = np.zeros(200, np.float32), stats.draw(np.repeat(np.arange(20), 10), 4000, 0)
    a, b = (stats.replicates(bias, e[None], labels, draws) for e in errors)
    low, high, p = stats.paired_test(a - b, 20, *errors.mean(1, keepdims=True))
    expected = scipy.stats.ttest_rel(*errors.astype(np.float64).reshape(2, 20, 10).mean(2))
    interval = expected.confidence_interval()
    width = interval.high - interval.low
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.05 * width)
    assert p == pytest.approx(expected.pvalue, abs=0.03)


def test_paired_test_equals_welch_where_only_seeds_vary() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.1, 0.1, 5), rng.normal(0, 0.3, 4)
    low, high, p = stats.paired_test(np.full(100, 0.1), 30, first, second)
    expected = scipy.stats.ttest_ind(first, second, equal_var=False)
    assert p == pytest.approx(expected.pvalue)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval()))


def test_seeds_that_differ_more_than_groups_are_no_difference() -> None:
    """Of 500 comparisons of equal models whose seeds have a standard deviation of .1."""
    rng = np.random.default_rng(0)
    clips = rng.normal(0, 0.02, 400)
    p, over_clips = [], []
    for _ in range(500):
        first, second = rng.normal(0, 0.1, size=(2, 5))
        on_these_clips = rng.normal(0, 0.02)
        seeds = (first + on_these_clips, second)
        replicates = clips + seeds[0].mean() - seeds[1].mean()
        p.append(stats.paired_test(replicates, 31, *seeds)[2])
        means = (x.mean(keepdims=True) for x in seeds)
        over_clips.append(stats.paired_test(replicates, 31, *means)[2])
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07
    assert np.mean(np.array(over_clips) < 0.05) > 0.3


def test_p_value_never_contradicts_the_interval() -> None:
    rng = np.random.default_rng(0)
    for difference in np.linspace(-3, 3, 101):
        replicates, seeds = rng.normal(difference, 1, 400), rng.normal(difference, 0.5, 5)
        low, high, p = stats.paired_test(replicates, 30, seeds, ZERO)
        assert (p < 0.05) == (low > 0 or high < 0)


def test_holm_by_hand() -> None:
    # smallest · 4, next · 3, then · 2, · 1; never below the one before; R: p.adjust(p, "holm")
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    adjusted = stats.holm([0.01, np.nan, 0.04])
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(adjusted[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(stats.holm([np.nan])).all()


def test_intervals_at_holm_levels_exclude_0_exactly_where_the_test_rejects() -> None:
    rng = np.random.default_rng(0)
    rejected = kept = 0
    for _ in range(300):
        count = rng.integers(1, 9)
        effects = rng.choice([0.0, 0.0, 0.8, 1.2, 2.0], count)
        draws = effects[:, None] + rng.normal(size=(count, 40)) / 3
        p = np.array([stats.paired_test(d, 10, ZERO + d.mean(), ZERO)[2] for d in draws])
        adjusted, levels = stats.holm(p), stats.holm_levels(p)
        for d, q, level in zip(draws, adjusted, levels, strict=True):
            low, high, _ = stats.paired_test(d, 10, ZERO + d.mean(), ZERO, level)
            assert (low > 0 or high < 0) == (q < 0.05)
            rejected, kept = rejected + (q < 0.05), kept + (q >= 0.05)
    assert min(rejected, kept) > 300
    levels = stats.holm_levels([0.01, np.nan, 0.001])
    assert levels == pytest.approx([0.95, np.nan, 0.975], nan_ok=True)
