"""Our clip file: the labelled clips of one corpus and their features, in one compact HDF5 file.

Layout (format ``msa-clips``, version 1), N clips ordered by video id, then clip number::

    id, video, split                (N,) text; split is train, valid, test or none
    interval                        (N, 2) float64, seconds of the video
    targets/<name>                  (N, K) float32, attribute `columns`
    features/<modality>/values      (R, D) float32; NaN is "never measured", there is no inf
    features/<modality>/offsets     (N + 1,) int64; clip i has the rows offsets[i]:offsets[i + 1]
    features/<modality>/frames      (N,) int64, source frames that overlapped the clip
    features/<modality>/times       (R, 2) float64 seconds, with aggregate=sequence only

With aggregate=mean a clip has one row, the mean of its frames; with aggregate=sequence one row for
each frame. Without rows the modality is missing for that clip.

Attributes of the file: ``format``, ``version``, ``corpus``, ``aggregate``, ``synthetic``;
``digest``, a SHA-256 over all of the above, so that a run can record what it was trained on;
``source`` (JSON), the input files and options it was made from; ``audit`` (JSON).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from msa_lightning import MODALITIES
from msa_lightning.errors import DataError, DataNotFoundError

FORMAT, VERSION = "msa-clips", 1
_FLUSH_BYTES = 8 * 2**20


@dataclass(frozen=True)
class ClipTable:
    """Everything of a clip file but the features; N clips.

    Attributes:
        path: The file.
        corpus: Name of the corpus.
        aggregate: ``mean`` or ``sequence``.
        synthetic: True if the corpus was made by a program.
        digest: SHA-256 over the content, hexadecimal.
        ids: Clip ids, (N,) str.
        videos: Video ids, (N,) str.
        splits: train, valid, test or none, (N,) str.
        intervals: Start and end in seconds, (N, 2) float64.
        targets: Labels (N, K) float32 by target name.
        columns: Names of the K columns by target name.
        dims: Feature size D by modality.
        frames: Source frames that overlapped each clip, (N,) int64 by modality.
    """

    path: Path
    corpus: str
    aggregate: str
    synthetic: bool
    digest: str
    ids: np.ndarray
    videos: np.ndarray
    splits: np.ndarray
    intervals: np.ndarray
    targets: dict[str, np.ndarray]
    columns: dict[str, list[str]]
    dims: dict[str, int]
    frames: dict[str, np.ndarray]


def read_table(path: Path) -> ClipTable:
    """Read everything of a clip file but the features.

    Raises:
        DataNotFoundError: If there is no such file.
        DataError: If it is not a whole clip file of this version.
    """
    with open_clips(path) as file:
        features = {m: file["features"][m] for m in MODALITIES if m in file["features"]}
        return ClipTable(
            path=path,
            corpus=str(file.attrs["corpus"]),
            aggregate=str(file.attrs["aggregate"]),
            synthetic=bool(file.attrs["synthetic"]),
            digest=str(file.attrs["digest"]),
            ids=_text(file["id"]),
            videos=_text(file["video"]),
            splits=_text(file["split"]),
            intervals=file["interval"][()],
            targets={name: node[()] for name, node in file["targets"].items()},
            columns={name: list(node.attrs["columns"]) for name, node in file["targets"].items()},
            dims={m: group["values"].shape[1] for m, group in features.items()},
            frames={m: group["frames"][()] for m, group in features.items()},
        )


def read_features(path: Path, modality: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read one modality of some clips, and only the parts of the file that hold them.

    Args:
        path: A clip file.
        modality: text, audio or visual.
        rows: Sorted clip indices, (n,) int.

    Returns:
        The rows of these clips one after the other, (R', D) float32, and how many each clip has,
        (n,) int64; 0 where the modality is missing.

    Raises:
        DataNotFoundError: If there is no such file.
        DataError: If it is not a whole clip file, or does not have the modality.
    """
    with open_clips(path) as file:
        if modality not in file["features"]:
            raise DataError(
                f"{path}: features/{modality} is not there, found {sorted(file['features'])}; "
                f"choose modalities without {modality} or prepare the file again with it"
            )
        group = file["features"][modality]
        offsets = group["offsets"][()]
        starts, stops = offsets[rows], offsets[np.asarray(rows) + 1]
        lengths = stops - starts
        values = np.empty((int(lengths.sum()), group["values"].shape[1]), np.float32)
        position = 0
        for start, stop in _runs(starts, stops):
            group["values"].read_direct(
                values, np.s_[start:stop], np.s_[position : position + stop - start]
            )
            position += stop - start
        return values, lengths


def open_clips(path: Path) -> h5py.File:
    """Open a clip file for reading.

    Raises:
        DataNotFoundError: If there is no such file.
        DataError: If it is not a whole clip file of this version.
    """
    if not path.is_file():
        raise DataNotFoundError(
            f"{path}: not found; make it with msa-prepare source=mosei_csd, or source=demo for the "
            "synthetic demo corpus, or say where it is with paths.prepared=<folder>"
        )
    try:
        # Without a lock: several processes read one file, also on file systems without locks.
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(
            f"{path}: not a whole HDF5 file ({error}); run msa-prepare again"
        ) from error
    found = file.attrs.get("format"), file.attrs.get("version")
    if found != (FORMAT, VERSION) or "digest" not in file.attrs:
        file.close()
        raise DataError(
            f"{path}: found format {found[0]} version {found[1]}, expected {FORMAT} {VERSION}; "
            "run msa-prepare again"
        )
    return file


@contextmanager
def write_whole(path: Path, folder: Path) -> Iterator[h5py.File]:
    """Open a new HDF5 file that appears under its name only once it is complete and on disk.

    Args:
        path: Its name.
        folder: Where it grows meanwhile; on the same file system.
    """
    temporary = folder / f"{path.name}.{os.getpid()}.tmp"
    try:
        with h5py.File(temporary, "w") as file:
            yield file
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class FeatureWriter:
    """Write one group ``features/<modality>``, rows after rows.

    Args:
        group: Empty group to write to.
        dim: Feature size D.
        times: Whether rows come with their times.
    """

    def __init__(self, group: h5py.Group, dim: int, *, times: bool) -> None:
        self._group = group
        self._kinds = {"values": (dim, np.float32)} | ({"times": (2, np.float64)} if times else {})
        for name, (width, dtype) in self._kinds.items():
            rows = max(1, 2**19 // (np.dtype(dtype).itemsize * width))
            group.create_dataset(
                name, (0, width), dtype, maxshape=(None, width), chunks=(rows, width)
            )
        self._pending: dict[str, list[np.ndarray]] = {name: [] for name in self._kinds}
        self._pending_bytes = 0
        self._hashes = {name: hashlib.sha256() for name in self._kinds}
        self._lengths: list[int] = []
        self._frames: list[int] = []

    def add(self, values: np.ndarray, times: np.ndarray | None = None) -> None:
        """Append rows: values (R, D), and their times (R, 2) in seconds."""
        for name, rows in (("values", values), ("times", times)):
            if rows is not None:
                self._pending[name].append(np.array(rows, self._kinds[name][1], order="C"))
                self._pending_bytes += rows.nbytes
        if self._pending_bytes > _FLUSH_BYTES:
            self._flush()

    def end_clips(self, lengths: Iterable[int], frames: Iterable[int]) -> None:
        """Say how many of the rows the next clips have, and how many source frames they had."""
        self._lengths += lengths
        self._frames += frames

    def close(self) -> dict[str, str]:
        """Write what is left; return the SHA-256 of each dataset by name."""
        self._flush()
        digests = {name: hash_.hexdigest() for name, hash_ in self._hashes.items()}
        offsets = np.cumsum([0, *self._lengths])
        for name, numbers in (("offsets", offsets), ("frames", self._frames)):
            array = np.array(numbers, np.int64)
            self._group.create_dataset(name, data=array)
            digests[name] = hashlib.sha256(array.tobytes()).hexdigest()
        return digests

    def _flush(self) -> None:
        for name, arrays in self._pending.items():
            if arrays:
                rows = np.concatenate(arrays)
                dataset = self._group[name]
                dataset.resize(len(dataset) + len(rows), axis=0)
                dataset[len(dataset) - len(rows) :] = rows
                self._hashes[name].update(rows.tobytes())
                arrays.clear()
        self._pending_bytes = 0


def write_table(
    file: h5py.File,
    table: ClipTable,
    feature_digests: Mapping[str, Mapping[str, str]],
    source: Mapping[str, Any],
    audit: Mapping[str, Any],
) -> None:
    """Complete a clip file whose features are written: labels, attributes and the digest.

    Args:
        file: The file, open for writing.
        table: What to write; its path, digest, dims and frames are not looked at.
        feature_digests: What each :class:`FeatureWriter` returned, by modality.
        source: Input files and options.
        audit: The closing audit.
    """
    arrays = {"id": table.ids, "video": table.videos, "split": table.splits}
    digests: dict[str, Any] = {"features": feature_digests, "columns": table.columns}
    for name, texts in arrays.items():
        file.create_dataset(name, data=texts.tolist(), dtype=h5py.string_dtype())
        digests[name] = texts.tolist()
    file.create_group("targets")  # empty if nothing is labelled
    numbers = {"interval": table.intervals.astype(np.float64)}
    numbers |= {f"targets/{name}": v.astype(np.float32) for name, v in table.targets.items()}
    for name, array in numbers.items():
        file.create_dataset(name, data=array)
        digests[name] = hashlib.sha256(array.tobytes()).hexdigest()
    for name, columns in table.columns.items():
        file[f"targets/{name}"].attrs["columns"] = columns
    attributes = {
        "format": FORMAT,
        "version": VERSION,
        "corpus": table.corpus,
        "aggregate": table.aggregate,
        "synthetic": table.synthetic,
    }
    content = json.dumps({**attributes, **digests}, sort_keys=True)
    file.attrs.update(attributes)
    file.attrs["source"] = json.dumps(source)
    file.attrs["audit"] = json.dumps(audit)
    file.attrs["digest"] = hashlib.sha256(content.encode()).hexdigest()


def _runs(starts: np.ndarray, stops: np.ndarray) -> Iterator[tuple[int, int]]:
    """Join ranges of rows that follow one another, so that each run is one read."""
    if len(starts) == 0:
        return
    breaks = np.flatnonzero(starts[1:] != stops[:-1]) + 1
    for first, last in zip([0, *breaks], [*breaks, len(starts)], strict=True):
        if starts[first] < stops[last - 1]:
            yield int(starts[first]), int(stops[last - 1])


def _text(dataset: h5py.Dataset) -> np.ndarray:
    return np.array(dataset.asstr()[()].tolist(), dtype=np.str_)
