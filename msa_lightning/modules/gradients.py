"""How hard each term of a loss pulls."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def gradient_norms(
    losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]
) -> dict[str, Tensor]:
    """L2 norm of the gradient of each loss, weight included, over the trained parameters.

    The graph is kept for the step itself.
    """
    trained = [p for p in parameters if p.requires_grad]
    norms = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        norms[name] = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
    return norms
