"""Adapters before a frozen base model: one module from source features to predictions."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from msa_lightning.batch import Batch, Output


class Composed(nn.Module):
    """Adapt each modality that has an adapter, then predict with the frozen base model.

    A modality of the base model without an adapter is masked. Frozen means frozen: no gradient
    reaches the base model's parameters, and it stays in evaluation mode, so that neither its
    statistics nor its dropout move.

    Args:
        base: The base model.
        adapters: Adapter by modality; some of the base model's.
        base_dims: Feature size D of each modality of the base model.
        dims: Feature size D of each modality that comes in; the adapters know theirs already.
        outputs: Target to K; the base model knows its own already.
    """

    def __init__(
        self,
        *,
        base: nn.Module,
        adapters: Mapping[str, nn.Module],
        base_dims: Mapping[str, int],
        dims: Mapping[str, int] | None = None,
        outputs: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.adapters = nn.ModuleDict(adapters)
        self.base_dims = dict(base_dims)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the adapters; the base model stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, batch: Batch) -> Output:
        """Adapt and predict; features (B, T, D_source), masks (B, T)."""
        return self.predict(batch, self.adapt(batch))

    def adapt(self, batch: Batch) -> dict[str, Tensor]:
        """Features of the adapted modalities in the base model's space, (B, T, D_target)."""
        return {
            m: adapter(batch.features[m], batch.masks[m])
            for m, adapter in self.adapters.items()
            if m in batch.features
        }

    def predict(self, batch: Batch, adapted: Mapping[str, Tensor]) -> Output:
        """Predict from features in the base model's space; its other modalities are masked."""
        features, masks = dict(adapted), {m: batch.masks[m] for m in adapted}
        some = next(iter(features.values()))
        for m in self.base_dims.keys() - adapted.keys():
            features[m] = some.new_zeros(len(batch), 1, self.base_dims[m])
            masks[m] = torch.zeros(len(batch), 1, dtype=torch.bool, device=some.device)
        output: Output = self.base(batch.replace(features=features, masks=masks))
        return output


class Unchanged(nn.Module):
    """The adapter between a space and itself: the base model sees its own features.

    Args:
        source: Feature size D.
        target: The same.
    """

    def __init__(self, *, source: int, target: int) -> None:
        super().__init__()
        if source != target:
            raise ValueError(f"features of size {source} are not of size {target}")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Features (B, T, D) as they are."""
        return x
