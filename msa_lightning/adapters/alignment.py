"""How far adapted vectors are from where they should be: the losses that train an adapter.

Every distance is called with adapted (B, D) and targets (R, D), in single precision or better, and
returns a scalar. Rows are real ones: absent clips are left out by the caller. What ``targets`` must
be depends on ``paired``:

- True: row for row what the adapted vectors should become (B = R); rows of NaN do not count.
- False: any R targets, drawn at random; pairs do not matter. More of them than B make the gradient
  less noisy.

Estimates are unbiased where that is possible, because a bias of small batches is a pull. CORAL from
sample covariances overrates the spread of B clips; its minimum for isotropic targets is reached
where their variance is 1 / (1 + (D + 1) / (B - 1)) of the targets': 1/21 with B = 16 and D = 300.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from msa_lightning.errors import ConfigError

_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
_PROJECTIONS = 64


class Distance(Protocol):
    """From adapted (B, D) and targets (R, D) to a scalar."""

    @property
    def paired(self) -> bool:
        """Whether targets belong to the adapted vectors row for row."""

    def __call__(self, adapted: Tensor, targets: Tensor) -> Tensor:
        """Measure; differentiable in ``adapted``."""


def build(weights: Mapping[str, float], generator: torch.Generator) -> dict[str, Distance]:
    """Give the distances that have a weight, by name.

    Args:
        weights: Weight of each term. ``task``, the loss of the frozen base model, is a term but no
            distance.
        generator: Source of random projections.

    Raises:
        ConfigError: If a term is unknown, a weight is negative, or all are zero.
    """
    known: dict[str, Distance] = {
        "mse": MSE(),
        "mean": Mean(),
        "coral": Coral(),
        "mmd": MMD(),
        "sliced_wasserstein": SlicedWasserstein(generator),
    }
    terms = [*known, "task"]
    faults = [
        f"alignment.{name}: no such term; expected one of {', '.join(terms)}"
        for name in weights
        if name not in terms
    ]
    faults += [f"alignment.{name}: {w} is below 0" for name, w in weights.items() if w < 0]
    if not any(weights.values()):
        faults.append(f"alignment: every weight is 0; set one of {', '.join(terms)}")
    if faults:
        raise ConfigError("\n".join(faults))
    return {name: distance for name, distance in known.items() if weights.get(name)}


class MSE:
    """Mean squared error, the transfer paper's loss (section 3.6.2); 0 where no row counts."""

    paired = True

    def __call__(self, adapted: Tensor, targets: Tensor) -> Tensor:
        """Average over dimensions and over the rows that have a target."""
        missing = targets.isnan()
        if len(targets) and not missing.any():
            return F.mse_loss(adapted, targets)
        has_target = ~missing.any(1, keepdim=True)
        error = torch.where(has_target, adapted - targets, 0.0)
        return error.square().sum() / (has_target.sum() * adapted.shape[1]).clamp(min=1)


class Mean:
    """Squared distance of the means, divided by D; CORAL's complement."""

    paired = False

    def __call__(self, adapted: Tensor, targets: Tensor) -> Tensor:
        """‖m_a - m_t‖² / D, less what the scatter of finite samples adds; 0 if B < 2."""
        if len(adapted) < 2:
            return adapted.sum() * 0.0
        apart = (adapted.mean(0) - targets.mean(0)).square()
        scatter = adapted.var(0) / len(adapted) + targets.var(0) / len(targets)
        return (apart - scatter).mean()


class Coral:
    """CORAL: squared distance of the covariances (Sun and Saenko, 2016, eq. 1).

    Deviation: each norm is estimated without bias, so a value can be below 0. As published, means
    do not matter.
    """

    paired = False

    def __call__(self, adapted: Tensor, targets: Tensor) -> Tensor:
        """‖C_a - C_t‖² / (4 D²) in the Frobenius norm, D by D never formed; 0 if B < 4."""
        if len(adapted) < 4:
            return adapted.sum() * 0.0
        a, t = adapted - adapted.mean(0), targets - targets.mean(0)
        both = (a @ t.T).square().sum() / ((len(a) - 1) * (len(t) - 1))
        return (_squared_norm(a) - 2 * both + _squared_norm(t)) / (2 * adapted.shape[1]) ** 2


class MMD:
    """Squared maximum mean discrepancy, unbiased (Gretton et al., JMLR 2012, eq. 3).

    The kernel is the mean of Gaussians exp(-‖x - y‖² / (f m)), where m is the median squared
    distance of two targets and f is 1/4, 1/2, 1, 2, 4.
    """

    paired = False

    def __call__(self, adapted: Tensor, targets: Tensor) -> Tensor:
        """Compare kernels within and between; 0 if B < 2."""
        b, r = len(adapted), len(targets)
        if b < 2:
            return adapted.sum() * 0.0
        within = torch.cdist(targets, targets).square()
        apart = ~torch.eye(r, dtype=torch.bool, device=targets.device)
        median = within[apart].median().clamp(min=torch.finfo(within.dtype).tiny)

        def kernel(squared: Tensor) -> Tensor:
            return torch.stack([(-squared / (f * median)).exp() for f in _BANDWIDTHS]).mean(0)

        a = kernel(torch.cdist(adapted, adapted).square())
        between = kernel(torch.cdist(adapted, targets).square()).mean()
        mean_a = (a.sum() - a.diagonal().sum()) / (b * (b - 1))
        return mean_a + kernel(within[apart]).mean() - 2 * between


class SlicedWasserstein:
    """Squared 2-Wasserstein distance of random one-dimensional projections, averaged.

    Bonneel et al., 2015. On a shift by v it is ‖v‖² / D on average: on the scale of the MSE.

    Args:
        generator: Source of the directions, new ones in each call.
    """

    paired = False

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __call__(self, adapted: Tensor, targets: Tensor) -> Tensor:
        """Compare quantiles, exactly so if R is a multiple of B; 0 if B = 0."""
        b, r, g = len(adapted), len(targets), self.generator
        if b == 0:
            return adapted.sum() * 0.0
        directions = torch.randn(adapted.shape[1], _PROJECTIONS, generator=g, device=g.device)
        directions = F.normalize(directions, dim=0).to(adapted)
        a = (adapted @ directions).sort(0).values  # (B, P)
        t = (targets @ directions).sort(0).values  # (R, P)
        same_quantile = (2 * torch.arange(r, device=a.device) + 1) * b // (2 * r)
        return (a[same_quantile] - t).square().mean()


def _squared_norm(x: Tensor) -> Tensor:
    """Squared Frobenius norm of the covariance of n >= 4 rows (n, D), without bias.

    It is the unbiased HSIC of a sample with itself under a linear kernel (Song et al., JMLR 2012,
    eq. 5).
    """
    n = len(x)
    k = (x @ x.T).fill_diagonal_(0)
    rows = k.sum(1)
    total = k.square().sum() + rows.sum() ** 2 / ((n - 1) * (n - 2))
    return (total - 2 * rows.square().sum() / (n - 2)) / (n * (n - 3))
