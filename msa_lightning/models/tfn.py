"""Tensor Fusion Network (Zadeh et al., EMNLP 2017).

The outer product of the three modality embeddings, each with a constant 1 prepended, holds all
unimodal, bimodal and trimodal products.

Deviations:

- Sub-networks start with batch norm and dropout, and the output range is a parameter, both as in
  the public reference implementations.
- The text's last state is that of its last real step; the reference's runs on over padding.
- A clip without a modality has a zero embedding, so that the products with it vanish and the others
  remain.
- One head per target.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from msa_lightning import MODALITIES
from msa_lightning.batch import Batch, Output, masked_mean
from msa_lightning.models.blocks.present import BatchNorm, on_present


class TFN(nn.Module):
    """Predict from the outer product of the three modality embeddings.

    Args:
        dims: Feature size D of each modality.
        outputs: Size K of each target's prediction.
        hidden: Width of each modality's sub-network.
        text_out: Size of the text embedding.
        fusion: Width of the two layers after the outer product.
        dropout: Of the audio and visual sub-networks, and of the text embedding.
        fusion_dropout: On the fused tensor.
        ranges: Target to [low, high]; its prediction is a sigmoid scaled to that range. A target
            without a range is not squashed.

    Raises:
        ValueError: If a modality is missing; the outer product needs all three.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        outputs: dict[str, int],
        hidden: dict[str, int],
        text_out: int,
        fusion: int,
        dropout: float,
        fusion_dropout: float,
        ranges: dict[str, tuple[float, float]],
    ) -> None:
        super().__init__()
        if missing := [m for m in MODALITIES if m not in dims]:
            raise ValueError(f"TFN needs text, audio and visual; {missing} not in modalities")
        self.text = nn.LSTM(dims["text"], hidden["text"], batch_first=True)
        self.text_out = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden["text"], text_out))
        self.subnets = nn.ModuleDict(
            {m: _subnet(dims[m], hidden[m], dropout) for m in ("audio", "visual")}
        )
        size = (text_out + 1) * (hidden["audio"] + 1) * (hidden["visual"] + 1)
        self.fusion = nn.Sequential(
            nn.Dropout(fusion_dropout),
            nn.Linear(size, fusion),
            nn.ReLU(),
            nn.Linear(fusion, fusion),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(fusion, k) for name, k in outputs.items()})
        self.ranges = {name: ranges[name] for name in outputs if name in ranges}

    def forward(self, batch: Batch) -> Output:
        """Features (B, T, D) with masks (B, T) to predictions (B, K)."""
        text = self._embed_text(batch.features["text"], batch.masks["text"])
        audio, visual = (
            on_present(
                self.subnets[m],
                masked_mean(batch.features[m], batch.masks[m]),
                batch.masks[m].any(1),
            )
            for m in ("audio", "visual")
        )
        t, a, v = (F.pad(x, (1, 0), value=1.0) for x in (text, audio, visual))  # each (B, H + 1)
        fused = self.fusion(torch.einsum("bi,bj,bk->bijk", t, a, v).flatten(1))
        predictions = {name: head(fused) for name, head in self.heads.items()}
        for name, (low, high) in self.ranges.items():
            predictions[name] = low + (high - low) * predictions[name].sigmoid()
        return Output(predictions)

    def _embed_text(self, x: Tensor, mask: Tensor) -> Tensor:
        """Last state of an LSTM over the real steps: (B, T, D), (B, T) to (B, text_out)."""
        front = (~mask).to(torch.uint8).argsort(dim=1, stable=True)  # real steps first, in order
        x = x.masked_fill(~mask[..., None], 0.0).gather(1, front[..., None].expand_as(x))
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.text(packed)
        embedded: Tensor = self.text_out(last[0])
        return embedded * mask.any(1, keepdim=True)


def _subnet(size: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        BatchNorm(size),
        nn.Dropout(dropout),
        nn.Linear(size, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
    )
