"""Concatenation, the plainest fusion: shallow, feature-level, one hidden layer.

The reference point every fusion method has to beat. In the place of a modality that a clip lacks
are zeros, the mean of normalised features.
"""

import torch
from torch import nn

from msa_lightning import MODALITIES
from msa_lightning.batch import Batch, Output, masked_mean


class Concatenation(nn.Module):
    """Predict from the concatenated time averages; a missing modality is zeros.

    Args:
        dims: Feature size D of each modality.
        outputs: Size K of each target's prediction.
        hidden: Width of the hidden layer.
        dropout: After the hidden layer.
    """

    def __init__(
        self, *, dims: dict[str, int], outputs: dict[str, int], hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.modalities = [m for m in MODALITIES if m in dims]
        size = sum(dims[m] for m in self.modalities)
        self.fusion = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, k) for name, k in outputs.items()})

    def forward(self, batch: Batch) -> Output:
        """Features (B, T, D) with masks (B, T) to predictions (B, K)."""
        means = [masked_mean(batch.features[m], batch.masks[m]) for m in self.modalities]
        fused = self.fusion(torch.cat(means, 1))  # (B, hidden)
        return Output({name: head(fused) for name, head in self.heads.items()})
