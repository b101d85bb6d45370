"""The feature adapter of the transfer paper (section 3.6.2)."""

from itertools import pairwise

from torch import Tensor, nn

from msa_lightning.models.blocks.present import BatchNorm, on_present


class Adapter(nn.Module):
    """Map the features of one extractor to the feature space of another.

    Args:
        source: Size D_s of the features that come in; passed by the caller.
        target: Size D_t of the features that go out; passed by the caller.
        hidden: Widths of the hidden layers, each Linear, BatchNorm, ReLU, Dropout. Without any the
            adapter is linear.
        dropout: Dropout probability after every hidden layer.
    """

    def __init__(self, *, source: int, target: int, hidden: list[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in pairwise([source, *hidden]):
            layers += [nn.Linear(i, o), BatchNorm(o), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear([source, *hidden][-1], target))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Adapt vectors or sequences, step by step.

        Args:
            x: (B, D_s) or (B, T, D_s).
            mask: (B,) or (B, T), true where a row is real.

        Returns:
            (B, D_t) or (B, T, D_t), zero where a row is absent. What lies there counts neither in
            the output nor in batch norm.
        """
        rows = on_present(self.layers, x.flatten(0, -2), mask.flatten())
        return rows.view(*x.shape[:-1], rows.shape[1])
