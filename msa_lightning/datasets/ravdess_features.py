"""Features of RAVDESS that others extracted, as one npz file -> one clip file."""

import hashlib
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msa_lightning.datasets.hdf5 import (
    VERSION,
    ClipTable,
    FeatureWriter,
    open_clips,
    write_table,
    write_whole,
)
from msa_lightning.datasets.ravdess import COLUMNS, Performance, labels, performance, splits
from msa_lightning.errors import DataError, DataNotFoundError

log = logging.getLogger(__name__)


class RavdessFeatures:
    """One vector per performance and modality.

    Args:
        corpus: Name of the corpus.
        path: The npz file.
        id_key: Name of its array of file names without ending, (N,).
        feature_keys: Modality to the name of its array, (N, D).
        folds: Actors of train, valid and test; others are in no split.
        output: File to write.
    """

    def __init__(
        self,
        *,
        corpus: str,
        path: str,
        id_key: str,
        feature_keys: Mapping[str, str],
        folds: Mapping[str, Sequence[int]],
        output: str,
    ) -> None:
        self.corpus, self.path, self.output = corpus, Path(path), Path(output)
        self.id_key, self.feature_keys, self.folds = id_key, dict(feature_keys), folds

    def prepare(self) -> Path:
        """Write the clip file unless it is up to date; return its path.

        Raises:
            DataNotFoundError: If the npz file is not there.
            DataError: If it is not what the configuration says.
        """
        if not self.path.is_file():
            raise DataNotFoundError(f"{self.path}: no such file; set MSA_DATA or source.path")
        source = {
            "version": VERSION,
            "corpus": self.corpus,
            "digest": hashlib.sha256(self.path.read_bytes()).hexdigest(),
            "keys": {"id": self.id_key, **self.feature_keys},
            "folds": {split: list(actors) for split, actors in self.folds.items()},
        }
        if self._is_current(source):
            log.info("%s: up to date, nothing to do", self.output)
        else:
            self._write(source)
        return self.output

    def _is_current(self, source: Mapping[str, Any]) -> bool:
        try:
            with open_clips(self.output) as file:
                return bool(json.loads(file.attrs["source"]) == source)
        except (DataNotFoundError, DataError, KeyError):
            return False  # not there, not ours, or damaged: written anew

    def _write(self, source: Mapping[str, Any]) -> None:
        clips, features = self._read()
        table = ClipTable(
            path=self.output,
            corpus=self.corpus,
            aggregate="mean",
            synthetic=False,
            digest="",
            ids=np.array([p.id for p in clips]),
            videos=np.array([p.video for p in clips]),
            splits=splits(clips, self.folds),
            intervals=np.full((len(clips), 2), np.nan),
            targets=labels(clips),
            columns={name: target.columns for name, target in COLUMNS.items()},
            dims={},
            frames={},
        )
        self.output.parent.mkdir(parents=True, exist_ok=True)
        masked: dict[str, list[str]] = {}
        with write_whole(self.output, self.output.parent) as file:
            digests = {}
            for m, x in features.items():
                values = np.where(np.isfinite(x), x, np.nan)
                present = ~np.isnan(values).all(1)
                rows = present.astype(int).tolist()
                writer = FeatureWriter(file.create_group(f"features/{m}"), x.shape[1], times=False)
                writer.add(values[present])
                writer.end_clips(rows, rows)
                digests[m] = writer.close()
                masked[m] = table.ids[~present].tolist()
            write_table(file, table, digests, source, {"masked": masked})
        counts = {s: int((table.splits == s).sum()) for s in sorted(set(table.splits.tolist()))}
        shown = ", ".join(f"{m} {x.shape[1]}" for m, x in features.items())
        log.info("%s: %d clips %s; columns: %s", self.output, len(clips), counts, shown)

    def _read(self) -> tuple[list[Performance], dict[str, np.ndarray]]:
        """The clips in the order of their ids, and their features, (N, D) by modality."""
        keys = [self.id_key, *self.feature_keys.values()]
        try:
            with np.load(self.path, allow_pickle=False) as file:
                have = sorted(file.files)
                arrays = {key: file[key] for key in keys if key in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{self.path}: cannot be read as npz ({error}); fetch it again"
            ) from error
        if missing := [key for key in keys if key not in arrays]:
            raise DataError(
                f"{self.path.name}: no array {missing}, found {have}; correct source.id_key or "
                "source.feature_keys"
            )
        names = arrays[self.id_key].tolist()
        for key in self.feature_keys.values():
            if arrays[key].ndim != 2 or len(arrays[key]) != len(names):
                raise DataError(
                    f"{self.path.name}: {key} has shape {arrays[key].shape}, expected "
                    f"({len(names)}, columns); correct source.feature_keys"
                )
        found = [performance(name) for name in names]
        if strange := [n for n, p in zip(names, found, strict=True) if p is None]:
            raise DataError(
                f"{self.path.name}: {self.id_key} {strange[0]} is no name of RAVDESS's speech "
                "files, 03-01-06-01-02-01-12 say; correct source.id_key, or leave the row out"
            )
        clips = [p for p in found if p]
        if twice := sorted(i for i, n in Counter(p.id for p in clips).items() if n > 1):
            raise DataError(f"{self.path.name}: {twice[:3]} are there twice; remove one of each")
        order = np.argsort([p.id for p in clips])
        features = {m: arrays[key][order] for m, key in self.feature_keys.items()}
        return [clips[i] for i in order], features
