"""Layers that see only the clips whose modality is present."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that uses its running statistics where a training batch has fewer than two rows.

    One row has no variance, and none has no mean; neither may enter the running statistics.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, D) over n."""
        if self.training and len(x) < 2:
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)
        return super().forward(x)


def on_present(net: nn.Module, x: Tensor, present: Tensor) -> Tensor:
    """Apply ``net`` to the present rows and leave the others zero, so batch norm counts real rows.

    Args:
        net: From (n, D) to (n, H).
        x: Inputs (B, D).
        present: Which of the B rows are real.

    Returns:
        (B, H), zero where absent.
    """
    if present.all():
        out: Tensor = net(x)
        return out
    out = net(x[present])
    return torch.zeros(len(x), out.shape[1], dtype=out.dtype, device=out.device).masked_scatter(
        present[:, None], out
    )
