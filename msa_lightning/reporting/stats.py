"""What a table may claim: spread over seeds, intervals over clips, paired tests.

Two sources of chance are kept apart. Training differs from seed to seed: mean and sample standard
deviation over seeds. The test clips are a sample: a percentile bootstrap (Efron and Tibshirani,
*An Introduction to the Bootstrap*, 1993, chapter 13) of the metric averaged over the seeds at hand.
Clips of one video share speaker, topic and recording and are not independent, so whole videos are
resampled (the cluster bootstrap: Field and Welsh, JRSS B 69, 2007). With few videos (below about
30) such intervals are somewhat too narrow (Cameron, Gelbach and Miller, Review of Economics and
Statistics 90, 2008). Two groups are compared on the same resamples, so the test is paired.

Dimension letters: S seeds, N labelled values (clips · components), R resamples.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.intp]
Metric = Callable[[Tensor, Tensor], Tensor]


def mean_sd(values: Sequence[float] | FloatArray) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof = 1).

    Both are NaN when a value is: to average the seeds that did not fail would flatter. The standard
    deviation of one value is NaN.
    """
    x = np.asarray(values, dtype=np.float64)
    return float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else np.nan


def draw(clusters: ArrayLike, resamples: int, seed: int) -> list[IntArray]:
    """Row numbers of bootstrap resamples: whole clusters, drawn with replacement.

    The same clusters and seed give the same rows, which is what pairs two groups.

    Args:
        clusters: Video of each row, (N,); the clip ids themselves would resample single clips.
        resamples: R.
        seed: Of the drawing.

    Returns:
        R arrays; their lengths differ when the clusters' sizes do. None of one cluster: it says
        nothing about others.
    """
    names, codes = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return []
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    chosen = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    return [np.concatenate([members[c] for c in row]) for row in chosen]


@torch.inference_mode()
def scores(metric: Metric, predictions: FloatArray, labels: FloatArray) -> FloatArray:
    """A metric of each seed's predictions.

    The convention's own function is called, not a vectorised copy that could drift from it. That is
    fast enough: 2,000 resamples of 5 seeds and 752 clips take 0.2 s (accuracies) to 1.2 s (F1).

    Args:
        metric: One of ``msa_lightning.metrics``.
        predictions: (S, N) float32.
        labels: (N,) float32 without NaN.

    Returns:
        (S,), NaN where undefined, also for predictions with a NaN among them.
    """
    if len(labels) == 0:
        return np.full(len(predictions), np.nan)
    y = torch.from_numpy(labels)
    seeds = zip(torch.from_numpy(predictions), np.isnan(predictions), strict=True)
    return np.array([np.nan if nan.any() else metric(p, y).item() for p, nan in seeds])


def replicates(
    metric: Metric, predictions: FloatArray, labels: FloatArray, draws: Sequence[IntArray]
) -> FloatArray:
    """A metric, averaged over seeds, in every resample.

    Args:
        metric: As for :func:`scores`.
        predictions: (S, N) float32.
        labels: (N,) float32 without NaN.
        draws: R arrays of rows, from :func:`draw`.

    Returns:
        (R,).
    """
    return np.array([scores(metric, predictions[:, i], labels[i]).mean() for i in draws])


def interval(values: FloatArray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of replicates (R,); NaN if one of them is, or there is none."""
    if len(values) == 0 or np.isnan(values).any():
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(differences: FloatArray) -> float:
    """Two-sided p of "no difference": the level at which the percentile interval reaches 0.

    So it never contradicts the interval (Efron and Tibshirani, chapter 15). It is at least
    2 / (R + 1), for R replicates (R,): no simulation shows that a chance is 0 (Davison and Hinkley,
    *Bootstrap Methods and their Application*, 1997, chapter 4). NaN if a difference is, or there is
    none.
    """
    if len(differences) == 0 or np.isnan(differences).any():
        return np.nan
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))


def holm(p: Sequence[float] | FloatArray) -> FloatArray:
    """Adjust p values for many comparisons (Holm, Scandinavian Journal of Statistics 6, 1979).

    Args:
        p: (C,); NaN is a comparison that could not be made: it stays NaN and is not counted.

    Returns:
        (C,): the chance of one false claim or more among all with at most this value.
    """
    adjusted = np.asarray(p, dtype=np.float64).copy()
    order = np.argsort(adjusted)[: np.isfinite(adjusted).sum()]  # NaN sorts last
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
