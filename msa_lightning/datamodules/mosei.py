"""CMU-MOSEI's pre-extracted features, from the file that ``msa-prepare`` writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule

from msa_lightning.datasets.clips import SequenceDataset, VectorDataset
from msa_lightning.datasets.facts import check_dims, check_present, check_split, check_targets
from msa_lightning.datasets.hdf5 import ClipTable, read_features, read_table
from msa_lightning.datasets.loader import Loader, batch_loader
from msa_lightning.datasets.splits import random_70_15_15
from msa_lightning.errors import ConfigError
from msa_lightning.normalise import Method, Normaliser

FloatArray = NDArray[np.float32]
_BLOCK = 1024  # clips per read while the normaliser is fitted to sequences


class MoseiDataModule(LightningDataModule):
    """Splits, normalises and batches the clips of a prepared file.

    A split is read when it is first asked for: training never reads the test split.

    Args:
        path: Prepared file.
        dims: Feature size D of each modality in the file.
        targets: Target to ``range`` and ``optional``; see ``datasets.facts.check_targets``.
        modalities: Which modalities to read.
        split: ``official`` folds, or ``random_70_15_15`` by video, seeded with ``split_seed``.
        split_seed: Of the random split, apart from the seed of training.
        granularity: A sample is a labelled ``segment``, or a whole ``video``: the mean over the
            frames of its clips, with the mean of their labels.
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
        path: str,
        dims: dict[str, int],
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
        super().__init__()
        if split not in ("official", "random_70_15_15"):
            raise ConfigError(f"data.split: '{split}' is not official or random_70_15_15")
        if granularity not in ("segment", "video"):
            raise ConfigError(f"data.granularity: '{granularity}' is not segment or video")
        self.path = Path(path)
        self.file_dims, self.target_facts, self.modalities = dims, targets, modalities
        self.split, self.split_seed, self.granularity = split, split_seed, granularity
        self.method = normaliser
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.loading: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory}
        self.normaliser: Normaliser | None = None
        self._table: ClipTable | None = None
        self._datasets: dict[str, VectorDataset | SequenceDataset] = {}

    @property
    def dims(self) -> dict[str, int]:
        """Feature size D of each chosen modality."""
        return {m: self.file_dims[m] for m in self.modalities}

    @property
    def table(self) -> ClipTable:
        """What the file says about its clips, read and checked once."""
        if self._table is None:
            table = read_table(self.path)
            check_dims(self.path, table.dims, self.file_dims, self.modalities)
            if self.granularity == "video" and table.aggregate != "mean":
                raise ConfigError("data.granularity: video needs a file of aggregate=mean")
            self._table = table
        return self._table

    @property
    def provenance(self) -> dict[str, Any]:
        """What a run records about its data."""
        t = self.table
        return {"file": self.path.name, "digest": t.digest, "synthetic": t.synthetic}

    def setup(self, stage: str) -> None:
        """Read what the stage needs: ``fit`` train and valid, ``test`` the test split."""
        for split in {"fit": self.fit_splits, "test": ["test"]}.get(stage, []):
            self.dataset(split)

    @property
    def fit_splits(self) -> list[str]:
        """What training may read."""
        return ["train", "valid"]

    def targets(self, split: str) -> dict[str, FloatArray]:
        """Labels of one split, (N, K) by target, without reading any feature."""
        rows = self._rows(split)
        found = {name: values[rows] for name, values in self.table.targets.items()}
        targets = check_targets(self.path, self.table.ids[rows], found, self.target_facts)
        if self.granularity == "segment":
            return targets
        groups, _ = self._videos(rows)
        return {
            name: np.stack([np.nanmean(x[g], 0) for g in groups]) for name, x in targets.items()
        }

    def dataset(self, split: str) -> VectorDataset | SequenceDataset:
        """The normalised clips of one split; the first call reads them."""
        if self.normaliser is None:
            self.normaliser = self._fit()
        if split not in self._datasets:
            self._datasets[split] = self._read(self._rows(split), self.targets(split))
        return self._datasets[split]

    def _read(
        self, rows: NDArray[np.int64], targets: dict[str, FloatArray]
    ) -> VectorDataset | SequenceDataset:
        assert self.normaliser
        ids = self.table.ids[rows].tolist()
        if self.table.aggregate == "sequence":
            return SequenceDataset(
                path=self.path, rows=rows, ids=ids, targets=targets, normaliser=self.normaliser
            )
        if self.granularity == "video":
            ids = self._videos(rows)[1]
        vectors = {m: self._vectors(m, rows) for m in self.modalities}
        return VectorDataset(
            ids=ids,
            features={m: self.normaliser(m, x) for m, (x, _) in vectors.items()},
            present={m: present for m, (_, present) in vectors.items()},
            targets=targets,
        )

    def train_dataloader(self) -> Loader:
        """Shuffled batches of the training split."""
        return self._loader("train", self.batch_size, self.seed)

    def val_dataloader(self) -> Loader:
        """The validation split in order."""
        return self._loader("valid", self.eval_batch_size, None)

    def test_dataloader(self) -> Loader:
        """The test split in order."""
        return self._loader("test", self.eval_batch_size, None)

    def ordered_dataloader(self, split: str) -> Loader:
        """Any split in order, whole on this device."""
        return batch_loader(self.dataset(split), self.eval_batch_size, None, **self.loading)

    def unlabelled(self) -> VectorDataset | SequenceDataset:
        """Every clip of the file in order, without labels; it takes a normaliser fitted before."""
        return self._read(np.arange(len(self.table.ids)), {})

    def unlabelled_dataloader(self) -> Loader:
        """The same in batches."""
        return batch_loader(self.unlabelled(), self.eval_batch_size, None, **self.loading)

    def _loader(self, split: str, batch_size: int, seed: int | None) -> Loader:
        return batch_loader(self.dataset(split), batch_size, seed, self.trainer, **self.loading)

    def _rows(self, split: str) -> NDArray[np.int64]:
        splits = self.table.splits
        if self.split == "random_70_15_15":
            splits = random_70_15_15(self.table.videos, self.split_seed)
        rows = np.flatnonzero(splits == split)
        check_split(
            self.path, split, len(rows), f"data.split is {self.split}; choose the other one"
        )
        return rows

    def _videos(self, rows: NDArray[np.int64]) -> tuple[list[NDArray[np.int64]], list[str]]:
        """Positions within ``rows`` of each video's clips, and the video ids."""
        videos, first = np.unique(self.table.videos[rows], return_inverse=True)
        return [np.flatnonzero(first == i) for i in range(len(videos))], videos.tolist()

    def _vectors(self, m: str, rows: NDArray[np.int64]) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Unscaled (N, D), NaN where absent or never measured, and which are present."""
        values, lengths = read_features(self.path, m, rows)
        vectors = np.full((len(rows), values.shape[1]), np.nan, np.float32)
        vectors[lengths > 0] = values
        if self.granularity == "segment":
            return vectors, lengths > 0
        groups, _ = self._videos(rows)
        frames = self.table.frames[m][rows]
        means = np.stack([_weighted_mean(vectors[g], frames[g]) for g in groups])
        return means, np.array([(frames[g] > 0).any() for g in groups])

    def _fit(self) -> Normaliser:
        rows = self._rows("train")
        return Normaliser.fit(self.method, {m: self._real_rows(m, rows) for m in self.modalities})

    def _real_rows(self, m: str, rows: NDArray[np.int64]) -> Iterator[FloatArray]:
        check_present(self.path, m, self.table.frames[m][rows] > 0)
        if self.granularity == "video":
            vectors, present = self._vectors(m, rows)
            yield vectors[present]
            return
        for start in range(0, len(rows), _BLOCK):
            yield read_features(self.path, m, rows[start : start + _BLOCK])[0]


def _weighted_mean(x: FloatArray, weights: NDArray[np.int64]) -> FloatArray:
    """Mean of (n, D) over rows, ignoring NaN; NaN where a column was never measured."""
    w = np.where(np.isnan(x), 0, weights[:, None])
    total = w.sum(0)
    mean = (np.nan_to_num(x) * w).sum(0) / np.maximum(total, 1)
    return np.where(total > 0, mean, np.nan).astype(np.float32)
