"""Sentiment metrics, every convention of the field under its own name.

Papers report "Acc-2" or "F1" and mean different rules. Here one name is one rule:

* `non0`: samples whose truth is exactly 0 are dropped; the classes are > 0 and <= 0.
* `has0`: every sample is kept; the classes are >= 0 and < 0, so 0 counts as non-negative.
* `zero_negative`: every sample is kept; the classes are > 0 and <= 0, so 0 counts as negative.
* `swapped`: F1 with its two arguments exchanged, as some codebases compute it. The F1 of each class
  is the same, but the classes are weighted by how often they are *predicted*. A model that nearly
  always answers "positive" on balanced truths scores .62 swapped and .33 in the right order.
* `sims`: predictions and truths are clipped to [-1, 1] first; bins are half-open, (low, high].
* `mag`: samples whose truth is exactly 0 are dropped before everything; the classes are >= 0 and
  < 0.

Every function takes the predictions and the truths of a whole split, two 1-D float32 vectors of
the same length without NaN, and returns a 0-d float32 tensor. A value that does not exist (the
correlation of a constant, an accuracy with no sample left) is NaN, never 0. Nothing is rounded
(MMSA rounds each seed to four decimals) and accuracies are fractions, not percentages. Values are
compared with bin edges in float32; averages are taken in float64, so that the order of the samples
does not change a result.

MMSA's metrics for its 3-class mode are left out: its "Non0" accuracy compares predictions in {0, 1}
with truths in {0, 2}, so no positive sample can ever be right.

Sources: MMSA and MMSA's ch-sims-v2 (`metricsTop.py`), MulT (`eval_metrics.py`), the README of
CMU_MOSEI in the CMU Multimodal SDK, MISA, MAG-BERT, MMIM, CASP, and MultiBench (`eval_affect`).
"""

from typing import Literal

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

# Regression on the scale of MOSI and MOSEI, [-3, 3].


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error, unclipped (MMSA, MulT, MISA, MMIM, CASP)."""
    return _mean((prediction - target).abs())


def corr(prediction: Tensor, target: Tensor) -> Tensor:
    """Pearson correlation, unclipped (MMSA, MulT, MISA, MMIM, CASP).

    NaN when one of the vectors is constant or there are fewer than two samples.
    """
    if not (_varies(prediction) and _varies(target)):
        return _undefined(target)
    # float64: in float32 the variance of data with a large offset is rounding noise
    p, y = prediction.double(), target.double()
    p, y = p - p.mean(), y - y.mean()
    return (p @ y / (p @ p * (y @ y)).sqrt()).clamp(-1, 1).float()


def nonzero_mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the samples whose truth is not exactly 0.

    MAG-BERT, and the transfer paper's public code, where a label of 0.0 also means "missing".
    """
    return mae(*_drop_zero(prediction, target))


def nonzero_corr(prediction: Tensor, target: Tensor) -> Tensor:
    """Pearson correlation of the samples whose truth is not exactly 0; see `nonzero_mae`."""
    return corr(*_drop_zero(prediction, target))


# Seven, five and three classes.


def acc7(prediction: Tensor, target: Tensor) -> Tensor:
    """Accuracy after clipping to [-3, 3] and rounding half to even (MMSA, MulT, MISA, MMIM)."""
    return accuracy(_rounded(prediction, 3), _rounded(target, 3))


def acc5(prediction: Tensor, target: Tensor) -> Tensor:
    """Accuracy after clipping to [-2, 2] and rounding half to even (MMSA, MulT)."""
    return accuracy(_rounded(prediction, 2), _rounded(target, 2))


def acc3(prediction: Tensor, target: Tensor) -> Tensor:
    """Accuracy after clipping to [-1, 1] and rounding half to even.

    MMSA computes it for MOSI and MOSEI but does not return it.
    """
    return accuracy(_rounded(prediction, 1), _rounded(target, 1))


def acc7_sdk(prediction: Tensor, target: Tensor) -> Tensor:
    """Accuracy in the seven classes of the CMU SDK, which round away from zero.

    The classes are < -2, [-2, -1), [-1, 0), 0, (0, 1], (1, 2] and > 2: a value of 0.33 is class 1
    here and class 0 in `acc7`.
    """
    return accuracy(_outward(prediction), _outward(target))


# Two classes.


def acc2_non0(prediction: Tensor, target: Tensor) -> Tensor:
    """Negative/positive accuracy, samples of truth 0 dropped; a prediction of 0 is negative.

    MMSA's Non0, MulT as its script calls it (`exclude_zero=True`), MISA, MMIM, CASP, MultiBench's
    `eval_affect`, and the CMU SDK since 2019.
    """
    prediction, target = _drop_zero(prediction, target)
    return accuracy(prediction > 0, target > 0)


def f1_non0(prediction: Tensor, target: Tensor) -> Tensor:
    """Weighted F1 in the classes of `acc2_non0` (MMSA since May 2021, MISA's report, MMIM)."""
    prediction, target = _drop_zero(prediction, target)
    return f1_weighted(prediction > 0, target > 0)


def f1_non0_swapped(prediction: Tensor, target: Tensor) -> Tensor:
    """`f1_non0` with its arguments exchanged (MulT, CASP, MMSA before May 2021)."""
    prediction, target = _drop_zero(prediction, target)
    return f1_weighted(target > 0, prediction > 0)


def acc2_has0(prediction: Tensor, target: Tensor) -> Tensor:
    """Negative/non-negative accuracy (MMSA's Has0, MISA, MMIM, the CMU SDK before 2019)."""
    return accuracy(prediction >= 0, target >= 0)


def f1_has0(prediction: Tensor, target: Tensor) -> Tensor:
    """Weighted F1 in the classes of `acc2_has0` (MMSA's Has0, MISA's report, MMIM)."""
    return f1_weighted(prediction >= 0, target >= 0)


def f1_has0_swapped(prediction: Tensor, target: Tensor) -> Tensor:
    """`f1_has0` with its arguments exchanged (MISA's code; its printed report is not swapped)."""
    return f1_weighted(target >= 0, prediction >= 0)


def acc2_zero_negative(prediction: Tensor, target: Tensor) -> Tensor:
    """Non-positive/positive accuracy, every sample kept.

    MulT with `exclude_zero=False`, MultiBench's `eval_affect` with `exclude_zero=False`, and the
    two classes of SIMS, whose clipping does not move the boundary (`sims_acc2`).
    """
    return accuracy(prediction > 0, target > 0)


def f1_zero_negative(prediction: Tensor, target: Tensor) -> Tensor:
    """Weighted F1 in the classes of `acc2_zero_negative` (SIMS, as `sims_f1`)."""
    return f1_weighted(prediction > 0, target > 0)


def f1_zero_negative_swapped(prediction: Tensor, target: Tensor) -> Tensor:
    """`f1_zero_negative` with its arguments exchanged (MulT with `exclude_zero=False`)."""
    return f1_weighted(target > 0, prediction > 0)


# MAG-BERT: every metric is over the samples whose truth is not 0.

mag_mae = nonzero_mae
mag_corr = nonzero_corr


def mag_acc2(prediction: Tensor, target: Tensor) -> Tensor:
    """Negative/positive accuracy, samples of truth 0 dropped; a prediction of 0 is positive."""
    prediction, target = _drop_zero(prediction, target)
    return accuracy(prediction >= 0, target >= 0)


def mag_f1(prediction: Tensor, target: Tensor) -> Tensor:
    """Weighted F1 in the classes of `mag_acc2`."""
    prediction, target = _drop_zero(prediction, target)
    return f1_weighted(prediction >= 0, target >= 0)


# SIMS and SIMS v2, [-1, 1] (MMSA; `sims_acc2_weak` and `sims_r2`: ch-sims-v2).

sims_acc2 = acc2_zero_negative
sims_f1 = f1_zero_negative


def sims_mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error after clipping to [-1, 1]."""
    return mae(prediction.clamp(-1, 1), target.clamp(-1, 1))


def sims_corr(prediction: Tensor, target: Tensor) -> Tensor:
    """Pearson correlation after clipping to [-1, 1]; NaN as for `corr`."""
    return corr(prediction.clamp(-1, 1), target.clamp(-1, 1))


def sims_acc3(prediction: Tensor, target: Tensor) -> Tensor:
    """Accuracy in the bins [-1, -.1], (-.1, .1], (.1, 1]."""
    edges = (-0.1, 0.1)
    return accuracy(_binned(prediction, edges), _binned(target, edges))


def sims_acc5(prediction: Tensor, target: Tensor) -> Tensor:
    """Accuracy in the bins [-1, -.7], (-.7, -.1], (-.1, .1], (.1, .7], (.7, 1]."""
    edges = (-0.7, -0.1, 0.1, 0.7)
    return accuracy(_binned(prediction, edges), _binned(target, edges))


def sims_acc2_weak(prediction: Tensor, target: Tensor) -> Tensor:
    """`sims_acc2` of the samples whose truth is in [-.4, .4] (a comment in the source says .6)."""
    weak = target.abs() <= 0.4
    return sims_acc2(prediction[weak], target[weak])


def sims_r2(prediction: Tensor, target: Tensor) -> Tensor:
    """Coefficient of determination after clipping to [-1, 1].

    NaN when the truth is constant or there are fewer than two samples.
    """
    p, y = prediction.clamp(-1, 1).double(), target.clamp(-1, 1).double()
    if not _varies(y):
        return _undefined(target)
    return (1 - (y - p).square().sum() / (y - y.mean()).square().sum()).float()


# Classes: vectors of class indices 0, 1, 2, ... (also as floats), or of booleans.


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Fraction of equal entries."""
    return _mean(prediction == target)


def weighted_accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of sensitivity and specificity, a class being present when its value is > 0.

    (tp n / p + tn) / 2n for p present and n absent truths (MulT, for one emotion); NaN when either
    kind does not occur.
    """
    present = target > 0
    hit = (prediction > 0) == present
    return (_mean(hit[present]) + _mean(hit[~present])) / 2


def f1_weighted(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean F1 of the classes, weighted by their number of truths (IEMOCAP in MulT)."""
    return _f1(prediction, target, "weighted")


def f1_macro(prediction: Tensor, target: Tensor) -> Tensor:
    """Plain mean F1 of the classes that occur among truths or predictions."""
    return _f1(prediction, target, "macro")


# Shared steps.


def _mean(values: Tensor) -> Tensor:
    return values.double().mean().float()  # NaN when empty


def _undefined(values: Tensor) -> Tensor:
    return torch.full((), torch.nan, dtype=torch.float32, device=values.device)


def _varies(values: Tensor) -> bool:
    return len(values) > 1 and bool((values != values[0]).any())


def _drop_zero(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    kept = target != 0
    return prediction[kept], target[kept]


def _rounded(values: Tensor, bound: int) -> Tensor:
    return values.clamp(-bound, bound).round()


def _outward(values: Tensor) -> Tensor:
    return values.sign() * values.abs().ceil().clamp(max=3)


def _binned(values: Tensor, edges: tuple[float, ...]) -> Tensor:
    # (low, high]; the outermost bins hold what clipping to [-1, 1] would move into them
    boundaries = torch.tensor(edges, dtype=torch.float32, device=values.device)
    return torch.bucketize(values, boundaries)


def _f1(prediction: Tensor, target: Tensor, average: Literal["weighted", "macro"]) -> Tensor:
    if len(target) == 0:
        return _undefined(target)  # torchmetrics says 0
    prediction, target = prediction.long(), target.long()
    classes = int(torch.maximum(prediction, target).max()) + 1
    return multiclass_f1_score(prediction, target, num_classes=max(classes, 2), average=average)
