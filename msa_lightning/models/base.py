"""The base fusion model of the transfer paper (sections 3.6.1, 4.1 and 4.2).

Each modality, averaged over time, goes through an encoder; the encodings attend to each other as
tokens; their concatenation goes through the fusion layers.

The paper says that after attention "the encoded modalities are concatenated", which leaves open
whether the attended or the encoded tokens enter the fusion. ``fusion_input`` offers both.

Deviations:

- With ``attended``, the encodings are added to what they attended to (residual).
- A modality that a clip lacks is not a zero vector fed to its encoder: its token is zero, hidden
  from attention, and does not count in batch norm. A clip that lacks all gets the heads' bias.
- Features are standardised on the training split before they come here; the paper does not say.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from msa_lightning import MODALITIES
from msa_lightning.batch import Batch, Output, masked_mean
from msa_lightning.models.blocks.present import BatchNorm, on_present


class BaseFusion(nn.Module):
    """Encode, attend across modalities, concatenate, predict.

    Args:
        dims: Feature size D of each modality.
        outputs: Size K of each target's prediction.
        hidden: Width of the encoders' and the first fusion layer (192 in the paper).
        embed: Width E of a token and of the second fusion layer (96).
        heads: Attention heads (4).
        dropout: After every hidden layer (.7).
        attention_dropout: On attention weights (.8).
        fusion_input: What the fusion layers see: ``attended``, tokens plus what they attended to;
            or ``encoded``, the tokens alone, in which case attention is not built.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        outputs: dict[str, int],
        hidden: int,
        embed: int,
        heads: int,
        dropout: float,
        attention_dropout: float,
        fusion_input: Literal["attended", "encoded"],
    ) -> None:
        super().__init__()
        if fusion_input not in ("attended", "encoded"):
            raise ValueError(f"fusion_input is '{fusion_input}'; expected 'attended' or 'encoded'")
        self.modalities = [m for m in MODALITIES if m in dims]

        def layer(i: int, o: int) -> list[nn.Module]:
            return [nn.Linear(i, o), BatchNorm(o), nn.ReLU(), nn.Dropout(dropout)]

        self.encoders = nn.ModuleDict(
            {
                m: nn.Sequential(
                    *layer(dims[m], hidden),
                    *layer(hidden, hidden),
                    nn.Linear(hidden, embed),
                    BatchNorm(embed),
                )
                for m in self.modalities
            }
        )
        self.attention = (
            nn.MultiheadAttention(embed, heads, attention_dropout, batch_first=True)
            if fusion_input == "attended"
            else None
        )
        self.fusion = nn.Sequential(
            *layer(len(self.modalities) * embed, hidden), *layer(hidden, embed)
        )
        self.heads = nn.ModuleDict({name: nn.Linear(embed, k) for name, k in outputs.items()})

    def forward(self, batch: Batch) -> Output:
        """Features (B, T, D) with masks (B, T) to predictions (B, K)."""
        present = torch.stack([batch.masks[m].any(1) for m in self.modalities], 1)  # (B, M)
        tokens = torch.stack(
            [
                on_present(
                    self.encoders[m], masked_mean(batch.features[m], batch.masks[m]), present[:, i]
                )
                for i, m in enumerate(self.modalities)
            ],
            1,
        )  # (B, M, E)
        if self.attention is not None:
            tokens = tokens + self._attend(tokens, present)
        fused = on_present(self.fusion, tokens.flatten(1), present.any(1))  # (B, E)
        return Output({name: head(fused) for name, head in self.heads.items()})

    def _attend(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Attend among present tokens, (B, M, E) to (B, M, E); an absent token stays zero."""
        assert self.attention is not None
        hidden = ~present & present.any(1, keepdim=True)  # a softmax over nothing would be NaN
        attended: Tensor
        attended, _ = self.attention(
            tokens, tokens, tokens, key_padding_mask=hidden, need_weights=False
        )
        return attended * present[:, :, None]
