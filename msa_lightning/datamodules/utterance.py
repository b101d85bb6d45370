"""One vector per clip and modality in a single npz or HDF5 file of equally long arrays."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule

from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.datasets.facts import check_dims, check_present, check_split, check_targets
from msa_lightning.datasets.loader import Loader, batch_loader
from msa_lightning.errors import DataError, DataNotFoundError
from msa_lightning.normalise import Method, Normaliser

FloatArray = NDArray[np.float32]


class UtteranceDataModule(LightningDataModule):
    """Splits, normalises and batches utterance vectors.

    A clip whose vector of a modality is all NaN lacks that modality.

    Args:
        path: ``.npz`` or HDF5 file.
        id_key: Name of the array of clip ids, (N,).
        split_key: Name of the array that says train, valid or test, (N,). A validation split may
            be absent; then train with ``selection=none``.
        feature_keys: Modality to the name of its array, (N, D).
        target_keys: Target to the name of its array, (N,) or (N, K).
        dims: Feature size D of each modality in the file.
        targets: Target to ``range`` and ``optional``; see ``datasets.facts.check_targets``.
        modalities: Which modalities to read.
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
        id_key: str,
        split_key: str,
        feature_keys: dict[str, str],
        target_keys: dict[str, str],
        dims: dict[str, int],
        targets: dict[str, dict[str, Any]],
        modalities: list[str],
        normaliser: Method,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        super().__init__()
        self.path, self.id_key, self.split_key = Path(path), id_key, split_key
        self.feature_keys, self.target_keys = feature_keys, target_keys
        self.file_dims, self.target_facts, self.modalities = dims, targets, modalities
        self.method = normaliser
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.loading: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory}
        self.normaliser: Normaliser | None = None
        self._arrays: dict[str, NDArray[Any]] | None = None
        self._datasets: dict[str, VectorDataset] = {}

    @property
    def dims(self) -> dict[str, int]:
        """Feature size D of each chosen modality."""
        return {m: self.file_dims[m] for m in self.modalities}

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the file that are needed, read and checked once."""
        if self._arrays is None:
            features = {m: k for m, k in self.feature_keys.items() if m in self.modalities}
            keys = [self.id_key, self.split_key, *features.values(), *self.target_keys.values()]
            arrays = _read(self.path, keys)
            sizes = {key: len(x) for key, x in arrays.items()}
            if len(set(sizes.values())) > 1:
                raise DataError(
                    f"{self.path.name}: arrays differ in length, {sizes}; expected one row a clip"
                )
            if flat := [key for key in features.values() if arrays[key].ndim != 2]:
                raise DataError(
                    f"{self.path.name}: {flat[0]} has shape {arrays[flat[0]].shape}, expected "
                    "(clips, columns); correct data.feature_keys"
                )
            found = {m: arrays[key].shape[1] for m, key in features.items()}
            check_dims(self.path, found, self.file_dims, self.modalities)
            self._arrays = arrays
        return self._arrays

    @property
    def provenance(self) -> dict[str, Any]:
        """What a run records about its data."""
        _ = self.arrays  # checks the file
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": self.path.name, "digest": digest, "synthetic": False}

    def setup(self, stage: str) -> None:
        """Read what the stage needs: ``fit`` train and valid, ``test`` the test split."""
        for split in {"fit": self.fit_splits, "test": ["test"]}.get(stage, []):
            self.dataset(split)

    @property
    def fit_splits(self) -> list[str]:
        """What training may read: train and, where the file has it, valid."""
        return [s for s in ("train", "valid") if s in self.arrays[self.split_key]]

    def targets(self, split: str) -> dict[str, FloatArray]:
        """Labels of one split, (N, K) by target."""
        rows = self._rows(split)
        found = {
            name: self.arrays[key][rows].astype(np.float32).reshape(len(rows), -1)
            for name, key in self.target_keys.items()
        }
        return check_targets(self.path, self.arrays[self.id_key][rows], found, self.target_facts)

    def dataset(self, split: str) -> VectorDataset:
        """The normalised clips of one split."""
        if self.normaliser is None:
            self.normaliser = self._fit()
        if split not in self._datasets:
            rows = self._rows(split)
            vectors = {m: self._vectors(m, rows) for m in self.modalities}
            self._datasets[split] = VectorDataset(
                ids=self.arrays[self.id_key][rows].tolist(),
                features={m: self.normaliser(m, x) for m, x in vectors.items()},
                present={m: _present(x) for m, x in vectors.items()},
                targets=self.targets(split),
            )
        return self._datasets[split]

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

    def _loader(self, split: str, batch_size: int, seed: int | None) -> Loader:
        return batch_loader(self.dataset(split), batch_size, seed, self.trainer, **self.loading)

    def _rows(self, split: str) -> NDArray[np.int64]:
        rows = np.flatnonzero(self.arrays[self.split_key] == split)
        found = sorted(set(self.arrays[self.split_key].tolist()))
        remedy = f"{self.split_key} has {found}"
        if split == "valid":
            remedy += "; train with selection=none, or choose another data.split_key"
        check_split(self.path, split, len(rows), remedy)
        return rows

    def _vectors(self, m: str, rows: NDArray[np.int64]) -> FloatArray:
        """Unscaled (N, D), NaN where never measured."""
        x = self.arrays[self.feature_keys[m]][rows].astype(np.float32)
        x[~np.isfinite(x)] = np.nan
        return x

    def _fit(self) -> Normaliser:
        rows = {}
        for m in self.modalities:
            x = self._vectors(m, self._rows("train"))
            check_present(self.path, m, _present(x))
            rows[m] = [x[_present(x)]]
        return Normaliser.fit(self.method, rows)


def _present(x: FloatArray) -> NDArray[np.bool_]:
    """Rows of (N, D) in which anything was measured."""
    return np.asarray(~np.isnan(x).all(1))


def _read(path: Path, keys: list[str]) -> dict[str, NDArray[Any]]:
    """Named arrays of an npz or HDF5 file; strings as ``str``."""
    if not path.is_file():
        raise DataNotFoundError(f"{path}: no such file; set MSA_DATA or data.path")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                have, arrays = set(file.files), {k: file[k] for k in keys if k in file.files}
        else:
            with h5py.File(path) as file:
                have, arrays = set(file), {k: file[k][()] for k in keys if k in file}
    except (OSError, TypeError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: cannot be read as npz or HDF5 ({error}); fetch it again"
        ) from error
    if missing := [k for k in keys if k not in have]:
        raise DataError(
            f"{path.name}: no array {missing}, found {sorted(have)}; correct data.*_key(s)"
        )
    return {
        k: np.array([s.decode() for s in x.tolist()]) if x.dtype.kind in "SO" else x
        for k, x in arrays.items()
    }
