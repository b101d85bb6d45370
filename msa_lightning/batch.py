"""The one thing that goes into a model and the one thing that comes out.

Dimension letters: B batch, T steps, D feature size, K outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Clip:
    """One labelled sample, not yet padded.

    Attributes:
        id: ``<video>_<n>``.
        features: Per modality (T, …): (T, D) features, (T,) token ids or samples, (T, C, H, W)
            frames. T = 0 says that the modality is missing for this clip.
        targets: Per target (K,), or (T, K) for a target per step. NaN is unlabelled.
    """

    id: str
    features: dict[str, Tensor]
    targets: dict[str, Tensor]


class Batch:
    """Padded clips.

    Not a dataclass: Lightning would take it apart and round labels to the network's precision.

    Attributes:
        features: Per modality float (B, T, D), or as the data config declares it: token ids int64
            (B, T), waveform (B, T), frames (B, T, C, H, W).
        masks: Per modality bool (B, T), true where a step is real. What lies under a false mask
            never changes an output.
        targets: Per target float (B, K) or (B, T, K); NaN is unlabelled or padding.
        ids: Clip ids, B of them.
    """

    def __init__(
        self,
        features: dict[str, Tensor],
        masks: dict[str, Tensor],
        targets: dict[str, Tensor],
        ids: Sequence[str],
    ) -> None:
        self.features, self.masks, self.targets, self.ids = features, masks, targets, ids

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> "Batch":
        """Copy to a device, onto a GPU without waiting (from pinned memory)."""
        onto_gpu = torch.device(device).type == "cuda"
        return self._map(lambda x: x.to(device, non_blocking=onto_gpu))

    def as_type(self, dtype: torch.dtype) -> "Batch":
        """With float features in the precision of the network; labels keep theirs."""
        if dtype == torch.float32:
            return self
        return self.replace(
            features={
                m: x.to(dtype) if x.is_floating_point() else x for m, x in self.features.items()
            }
        )

    def replace(self, **changes: Any) -> "Batch":
        """The same with some attributes changed."""
        return Batch(**(vars(self) | changes))

    def split(self, sizes: Sequence[int]) -> list["Batch"]:
        """Consecutive parts of it, without a copy."""
        features, masks, targets = (
            {name: torch.split(x, list(sizes)) for name, x in tensors.items()}
            for tensors in (self.features, self.masks, self.targets)
        )
        return [
            Batch(
                {name: x[i] for name, x in features.items()},
                {name: x[i] for name, x in masks.items()},
                {name: x[i] for name, x in targets.items()},
                self.ids[start:stop],
            )
            for i, (start, stop) in enumerate(pairwise(accumulate(sizes, initial=0)))
        ]

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory; called by the loader."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        features, masks, targets = (
            {name: function(x) for name, x in tensors.items()}
            for tensors in (self.features, self.masks, self.targets)
        )
        return Batch(features, masks, targets, self.ids)


@dataclass(frozen=True)
class Output:
    """What a model returns.

    Attributes:
        predictions: Per target (B, K) or (B, T, K), keyed like ``Batch.targets``.
        unimodal: Per modality the predictions from that modality alone, where a model has them.
        auxiliary: Named scalar losses of the model's own, weighted by ``loss.weights``.
    """

    predictions: dict[str, Tensor]
    unimodal: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    auxiliary: dict[str, Tensor] = field(default_factory=dict)


def collate(clips: Sequence[Clip]) -> Batch:
    """Pad clips to the longest of each modality (at least one step).

    Args:
        clips: B clips with the same modalities and targets.
    """
    features, masks = {}, {}
    for m in clips[0].features:
        sequences = [clip.features[m] for clip in clips]
        lengths = torch.tensor([len(s) for s in sequences])
        padded = pad_sequence(sequences, batch_first=True)
        if padded.shape[1] == 0:  # missing for every clip
            padded = padded.new_zeros(len(clips), 1, *padded.shape[2:])
        features[m] = padded
        masks[m] = torch.arange(padded.shape[1]) < lengths[:, None]
    targets = {
        name: pad_sequence([c.targets[name] for c in clips], True, float("nan"))
        for name in clips[0].targets
    }
    return Batch(features, masks, targets, [clip.id for clip in clips])


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average over the real steps: (B, T, D), (B, T) to (B, D); zeros where no step is real."""
    if x.shape[1] == 1:
        return x[:, 0].masked_fill(~mask, 0.0)
    total = x.masked_fill(~mask[..., None], 0.0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)
