"""CMU-MOSI from raw media, or any corpus whose source lists raw clips."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

from filelock import FileLock

from msa_lightning.datamodules.mosei import MoseiDataModule
from msa_lightning.datasets.assemble import assemble
from msa_lightning.datasets.hdf5 import ClipTable, open_clips
from msa_lightning.datasets.manifest import Manifest
from msa_lightning.errors import ConfigError
from msa_lightning.extractors.extraction import Extraction
from msa_lightning.normalise import Method


class Source(Protocol):
    """Lists the raw clips of a corpus."""

    def manifest(self) -> Manifest:
        """The clips, their labels and splits."""


class MosiDataModule(MoseiDataModule):
    """Extracts what the cache lacks, puts it into a clip file, and serves that file.

    From the clip file on, raw media go the same way as pre-extracted features: this class is
    :class:`MoseiDataModule` with a file that it makes itself.

    Args:
        source: Lists the raw clips.
        extraction: Extractors, and how to run them.
        prepared: Folder of the clip file.
        aggregate: One ``mean`` vector per clip, or the ``sequence``.
        targets: Target to ``range`` and ``optional``; see ``datasets.facts.check_targets``.
        modalities: Which modalities to read; no other is extracted.
        split: ``official`` folds, or ``random_70_15_15`` by video, seeded with ``split_seed``.
        split_seed: Of the random split, apart from the seed of training.
        granularity: A sample is a labelled ``segment``, or a whole ``video``.
        normaliser: ``standard``, ``robust`` or ``none``, fitted on the training split.
        batch_size: Clips per step, over all devices together.
        eval_batch_size: The same where nothing is learnt.
        seed: Of the shuffling.
        num_workers: Processes that load; 0 suits vectors in memory.
        pin_memory: Copy batches to page-locked memory, for a GPU.
    """

    def __init__(
        self,
        *,
        source: Source,
        extraction: Extraction,
        prepared: str,
        aggregate: Literal["mean", "sequence"],
        targets: dict[str, dict[str, Any]],
        modalities: list[str],
        split: Literal["official", "random_70_15_15"],
        split_seed: int,
        granularity: Literal["segment", "video"],
        normaliser: Method,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        if aggregate not in ("mean", "sequence"):
            raise ConfigError(f"data.aggregate: '{aggregate}' is not mean or sequence")
        self.source, self.extraction = source, extraction
        self.prepared, self.aggregate = Path(prepared), aggregate
        super().__init__(
            path="",
            dims={m: len(e.columns) for m, e in extraction.extractors.items()},
            targets=targets,
            modalities=modalities,
            split=split,
            split_seed=split_seed,
            granularity=granularity,
            normaliser=normaliser,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )

    def prepare_data(self) -> None:
        """Extract and assemble; a second call, or another process, finds it done.

        Only what writes waits for other processes: where all is there, the jobs of a sweep would
        wait for one another a third of their time.
        """
        self.prepared.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.prepared / ".extraction.lock")
        with lock if getattr(self.source, "make", None) else nullcontext():
            manifest = self.source.manifest()
        self.extraction.run(manifest, quiet=True, lock=lock)
        caches = self.extraction.caches()
        self.path = assemble(manifest, caches, self.aggregate, self.prepared, lock=lock)

    @property
    def table(self) -> ClipTable:
        """What the file says about its clips; the first call makes the file if need be."""
        if self._table is None:
            self.prepare_data()
        return super().table

    @property
    def missing(self) -> dict[str, dict[str, str]]:
        """Why clips lack a modality: by modality and clip id."""
        with open_clips(self.table.path) as file:
            masked = json.loads(file.attrs["audit"])["masked"]
        return {
            m: {clip: reason for reason, clips in reasons.items() for clip in clips}
            for m, reasons in masked.items()
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """What a run records about its data: the extractors and their weights, too."""
        return super().provenance | {"extractors": self.extractors}

    @property
    def extractors(self) -> dict[str, dict[str, Any]]:
        """Name, weights and identity of each extractor."""
        return {
            m: {"name": e.name, "weights_from": e.weights, **e.identity}
            for m, e in self.extraction.extractors.items()
        }
