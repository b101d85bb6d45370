"""What is left of data without some of their modalities."""

from collections.abc import Iterator, Sequence
from typing import Any

from msa_lightning.batch import Batch


class Subset:
    """A datamodule of which only some modalities are seen.

    Args:
        datamodule: The whole.
        modalities: What is left of it.
    """

    def __init__(self, datamodule: Any, modalities: Sequence[str]) -> None:
        self.datamodule, self.modalities = datamodule, modalities

    def ordered_dataloader(self, split: str) -> Iterator[Batch]:
        """Batches with every other modality masked."""
        for batch in self.datamodule.ordered_dataloader(split):
            masks = {m: mask & (m in self.modalities) for m, mask in batch.masks.items()}
            yield batch.replace(masks=masks)
