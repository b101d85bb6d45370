"""Task losses: pure functions of predictions and targets of the labelled clips of a batch."""

import torch
from torch import Tensor
from torch.nn import functional as F


def mse_mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of squared and absolute error, (MSE + MAE) / 2; any shape (n, …) to a scalar.

    The absolute part of the transfer paper's combined loss (section 4.1).
    """
    return (F.mse_loss(prediction, target) + F.l1_loss(prediction, target)) / 2


def squared_correlation_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """(1 - r)² with Pearson's r over the batch, averaged over the K outputs; (n, K) to a scalar.

    The rank part of the transfer paper's combined loss (section 4.1). Where r is undefined (one
    clip, or a constant) it counts as 0, with a finite gradient.
    """
    p = prediction - prediction.mean(0)
    t = target - target.mean(0)
    defined = _varies(p, prediction) & _varies(t, target)
    norms = torch.where(defined, p.square().sum(0) * t.square().sum(0), 1.0).sqrt()
    r = torch.where(defined, (p * t).sum(0) / norms, 0.0)
    return (1 - r).square().mean()


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits (n, K) with class indices (n, 1), which may be floats; a scalar."""
    return F.cross_entropy(prediction, target[:, 0].long())


def _varies(centred: Tensor, values: Tensor) -> Tensor:
    """Whether more than the rounding of the mean is left after centring."""
    info = torch.finfo(values.dtype)
    rounding = (8 * info.eps) ** 2 * values.square().sum(0)
    return (centred.square().sum(0) > rounding.clamp(min=info.tiny)).detach()
