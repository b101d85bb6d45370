"""What an adapter did to its space: has it collapsed, does it lie where the targets lie?

All functions take the vectors of real rows and return plain numbers, NaN where one is undefined.
"""

import math

import torch
from torch import Tensor

from msa_lightning.adapters.alignment import MMD, Coral

_CONSTANT = 1e-6  # standard deviation, in units of normalised features: rounding and no more
_MOST = 1000  # vectors of each side that distances between all of them are computed for


def variance_ratio(adapted: Tensor, targets: Tensor) -> Tensor:
    """Variance of adapted over variance of target vectors: 1 is the targets' spread, 0 a constant.

    Args:
        adapted: (n, D).
        targets: (m, D).

    Returns:
        Float64 (D,); NaN in dimensions in which the targets do not vary.
    """
    if min(len(adapted), len(targets)) < 2:
        return torch.full(targets.shape[1:], math.nan, dtype=torch.float64)
    spread = targets.double().std(0)
    ratio = (adapted.double().std(0) / spread).square()
    return torch.where(spread > _CONSTANT, ratio, math.nan)


def collapse(adapted: Tensor, targets: Tensor) -> dict[str, float]:
    """Quartiles ``q25``, ``median`` and ``q75`` of the :func:`variance_ratio` over dimensions."""
    ratio = variance_ratio(adapted, targets)
    quartiles = ratio.nanquantile(torch.tensor([0.25, 0.5, 0.75]).to(ratio))
    return dict(zip(("q25", "median", "q75"), quartiles.tolist(), strict=True))


def coral_distance(adapted: Tensor, targets: Tensor, *, seed: int = 0) -> float:
    """Unbiased CORAL distance of (n, D) and (m, D), of at most 1000 random rows of each."""
    if min(len(adapted), len(targets)) < 4:
        return math.nan
    a, t = (_sample(x, _MOST, seed) for x in (adapted, targets))
    return Coral()(a, t).item()


def mmd_distance(adapted: Tensor, targets: Tensor, *, seed: int = 0) -> float:
    """Unbiased squared MMD of (n, D) and (m, D), of at most 1000 random rows of each."""
    if min(len(adapted), len(targets)) < 2:
        return math.nan
    a, t = (_sample(x, _MOST, seed) for x in (adapted, targets))
    return MMD()(a, t).item()


def neighbour_overlap(adapted: Tensor, targets: Tensor, *, seed: int = 0) -> float:
    """Share of adapted vectors whose nearest neighbour among all others is a target.

    About 1/2 if both have one distribution, 0 if they lie apart or the adapter is constant. Above
    1/2 adapted vectors lie closer to targets than two independent draws do.

    Args:
        adapted: (n, D).
        targets: (m, D). As many of one as of the other are compared: random min(n, m, 1000).
        seed: Of the choice.
    """
    size = min(len(adapted), len(targets), _MOST)
    if size < 2:
        return math.nan
    a, t = (_sample(x, size, seed) for x in (adapted, targets))
    others = torch.cdist(a, a).fill_diagonal_(torch.inf).amin(1)
    return (torch.cdist(a, t).amin(1) < others).double().mean().item()


def r2(adapted: Tensor, pairs: Tensor) -> float:
    """R² of adapted vectors against the same clips in the target space, averaged over dimensions.

    0 is what the mean of ``pairs`` would reach; it has no lower bound. Dimensions in which pairs do
    not vary are left out.

    Args:
        adapted: (n, D).
        pairs: (n, D); rows with NaN do not count.
    """
    real = ~pairs.isnan().any(1)
    if real.sum() < 2:
        return math.nan
    a, p = adapted[real].double(), pairs[real].double()
    varies = p.std(0) > _CONSTANT
    residual = (a - p).square().sum(0)
    total = (p - p.mean(0)).square().sum(0)
    return (1 - residual / total)[varies].mean().item()


def _sample(x: Tensor, most: int, seed: int) -> Tensor:
    """At most so many random rows, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return x[torch.randperm(len(x), generator=generator)[:most].to(x.device)].double()
