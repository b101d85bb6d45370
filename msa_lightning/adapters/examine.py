"""What an adapter does to the clips of a source: its diagnostics, split by split.

The test split is not read.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from msa_lightning.adapters import diagnostics
from msa_lightning.adapters.material import clips, look_up
from msa_lightning.datasets.clips import VectorDataset


@torch.inference_mode()
def examine(
    adapter: nn.Module,
    datamodule: Any,
    modality: str,
    targets: Tensor,
    known: Mapping[str, Tensor],
) -> dict[str, dict[str, float]]:
    """Number of clips, collapse, distance to the targets and, where there are pairs, R².

    Args:
        adapter: Left in evaluation mode.
        datamodule: Of the source.
        modality: Which the adapter adapts.
        targets: Target-space vectors (N, D).
        known: Target-space vector (D,) of source clips, by id.

    Returns:
        Values by split and name, NaN where undefined.
    """
    adapter.eval()
    results = {}
    for split in datamodule.fit_splits:
        source = clips(datamodule, split, modality)
        adapted = _adapt(adapter, source, modality)
        spread, pairs = diagnostics.collapse(adapted, targets), look_up(known, source.ids)
        results[split] = {
            "clips": len(source.ids),
            "variance_ratio": spread["median"],
            "variance_ratio_q25": spread["q25"],
            "variance_ratio_q75": spread["q75"],
            "coral": diagnostics.coral_distance(adapted, targets),
            "mmd": diagnostics.mmd_distance(adapted, targets),
            "neighbour_overlap": diagnostics.neighbour_overlap(adapted, targets),
            "r2": float("nan") if pairs is None else diagnostics.r2(adapted, pairs),
        }
    return results


@torch.inference_mode()
def spread(adapter: nn.Module, datamodule: Any, modality: str, targets: Tensor) -> pd.DataFrame:
    """Variance ratio of every dimension (rows) on every split (columns)."""
    adapter.eval()
    ratios = {}
    for split in datamodule.fit_splits:
        adapted = _adapt(adapter, clips(datamodule, split, modality), modality)
        ratios[split] = diagnostics.variance_ratio(adapted, targets).numpy()
    return pd.DataFrame(ratios).rename_axis("dimension")


def _adapt(adapter: nn.Module, source: VectorDataset, modality: str) -> Tensor:
    adapted: Tensor = adapter(source.features[modality][:, 0], source.masks[modality][:, 0])
    return adapted
