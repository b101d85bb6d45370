"""The CMU Multimodal SDK's computational sequences: .csd files, which are HDF5.

Layout of a file::

    <sequence name>/data/<key>/features    (T, D) numbers, or words as bytes
    <sequence name>/data/<key>/intervals   (T, 2) start and end of each row in seconds
    <sequence name>/metadata/<entry>       (1,) JSON text

A key is a video id, or ``<video>[<n>]`` for its segment n. The metadata of genuine files is often
junk, so nothing here depends on it; the rows are checked strictly.

Source: https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK, ``computational_sequence``.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5s

from msa_lightning.errors import DataError, DataNotFoundError

BLOCK_BYTES = 32 * 2**20
"""Most bytes of features held at a time, unless one compressed chunk of the file is larger."""

_SEGMENT = re.compile(r"(.+)\[(\d+)\]", re.DOTALL)


def split_key(key: str) -> tuple[str, int | None]:
    """Split ``<video>[<n>]`` into video and segment; the segment of a whole video is None."""
    match = _SEGMENT.fullmatch(key)
    return (match[1], int(match[2])) if match else (key, None)


class ComputationalSequence:
    """An open .csd file: a mapping from video or segment to timed rows, read when asked for.

    Args:
        path: The file.

    Raises:
        DataNotFoundError: If there is no such file.
        DataError: If it is not a whole HDF5 file with one sequence in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DataNotFoundError(f"{path}: not found (looked in {path.absolute().parent})")
        if not h5py.is_hdf5(path):
            raise DataError(
                f"{path}: not an HDF5 file, as every .csd is ({path.stat().st_size:,} bytes); "
                "it may be an error page saved by a browser: get it again"
            )
        try:
            # Without a lock: corpora often lie on file systems that have none, or read-only ones.
            self._file = h5py.File(path, "r", locking=False)
        except OSError as error:
            raise DataError(f"{path}: truncated or damaged ({error}); get it again") from error
        try:
            roots = [name for name, node in self._file.items() if isinstance(node, h5py.Group)]
            if len(roots) != 1 or not isinstance(self._file[roots[0]].get("data"), h5py.Group):
                raise DataError(
                    f"{path}: found {_shorten(list(self._file))} at the top, expected one group "
                    "with a group 'data' inside; give a file of the CMU Multimodal SDK"
                )
            self.name: str = roots[0]
            self._data = self._file[self.name]["data"]
            self.keys = frozenset(self._data)
        except DataError:
            self.close()
            raise
        except (OSError, RuntimeError, KeyError, UnicodeError) as error:
            self.close()
            raise DataError(f"{path}: damaged ({error}); get it again") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def metadata(self) -> dict[str, str]:
        """The entries that can be read as text, as they stand; none of them can be relied on."""
        entries: dict[str, str] = {}
        group = self._file[self.name].get("metadata")
        for name in group if isinstance(group, h5py.Group) else ():
            try:
                value: Any = np.asarray(group[name][()]).ravel()[0]
                entries[name] = (
                    value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                )
            except (
                OSError,
                RuntimeError,
                KeyError,
                IndexError,
                TypeError,
                AttributeError,
                ValueError,
            ):
                continue
        return entries

    @property
    def synthetic(self) -> bool:
        """True if the file says that a program made its content, as the demo corpus does."""
        return "synthetic" in self.metadata.get("dataset name", "").lower()

    def rows(self, key: str) -> "Rows":
        """Open the rows of one video or segment, and check their times.

        Raises:
            DataError: If shapes, types or times are not those of a sequence.
        """
        where = f"{self.path}: {self.name}/data/{key}"
        try:
            # h5py's low-level interface: a corpus has thousands of small datasets, and opening one
            # as group[name] costs several times what reading it costs.
            features = h5d.open(self._data.id, f"{key}/features".encode())
            intervals = h5d.open(self._data.id, f"{key}/intervals".encode())
            return Rows(where, features, intervals)
        except DataError:
            raise
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where}: expected datasets 'features' and 'intervals' ({error}); "
                "get the file again"
            ) from error


class Rows:
    """The rows of one video: its times in memory (16 bytes a row), its features on disk.

    Attributes:
        where: File and place in it, for messages.
        intervals: Start and end of each row in seconds, (T, 2) float64.
        dim: Feature size D.
        words: True if the features are text.
    """

    def __init__(self, where: str, features: h5d.DatasetID, intervals: h5d.DatasetID) -> None:
        shape, dtype = features.shape, features.dtype
        if len(shape) != 2 or dtype.kind not in "fiuSO":
            raise DataError(
                f"{where}/features: found {shape} of {dtype}, expected (T, D) numbers or words; "
                "get the file again"
            )
        if intervals.shape != (shape[0], 2) or intervals.dtype.kind not in "fiu":
            raise DataError(
                f"{where}/intervals: found {intervals.shape} of {intervals.dtype}, expected "
                f"{(shape[0], 2)} numbers, one row for each row of the features; "
                "get the file again"
            )
        self.where = where
        self.dim: int = shape[1]
        self.words = dtype.kind in "SO"
        self.intervals = _read(intervals, 0, shape[0], np.float64)
        starts, ends = self.intervals.T
        if not (np.isfinite(self.intervals).all() and (ends >= starts).all()):
            wrong = ~(np.isfinite(starts) & np.isfinite(ends) & (ends >= starts))
            row = int(wrong.argmax())
            raise DataError(
                f"{where}/intervals: row {row} is [{starts[row]:g}, {ends[row]:g}] ({wrong.sum()} "
                "such rows), expected a finite start and an end not before it; correct the file"
            )
        self._features = features
        self._dtype = dtype if self.words else np.dtype(np.float32)
        # A compressed chunk is unpacked whole, so blocks end where chunks end.
        layout = features.get_create_plist()
        chunk = layout.get_chunk()[0] if layout.get_layout() == h5d.CHUNKED else 1
        fitting = BLOCK_BYTES // max(1, self._dtype.itemsize * self.dim)
        self._step = max(chunk, fitting // chunk * chunk)
        self._first = 0
        self._block = np.empty((0, self.dim), self._dtype)

    def __len__(self) -> int:
        return len(self.intervals)

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield rows start to stop in pieces of bounded size, reading the file block by block.

        Yields:
            (T', D) float32, or bytes if the rows are words. Numbers beyond float32 become inf.
            The array is a view of the current block: use it before asking for the next.

        Raises:
            DataError: If the file cannot be read there.
        """
        while start < stop:
            if not self._first <= start < self._first + len(self._block):
                self._first = start - start % self._step
                end = min(len(self), self._first + self._step)
                try:
                    self._block = _read(self._features, self._first, end, self._dtype)
                except (OSError, RuntimeError) as error:
                    raise DataError(
                        f"{self.where}/features: damaged ({error}); get the file again"
                    ) from error
            end = min(stop, self._first + len(self._block))
            yield self._block[start - self._first : end - self._first]
            start = end


def _read(dataset: h5d.DatasetID, start: int, stop: int, dtype: npt.DTypeLike) -> np.ndarray:
    """Read rows start to stop of a dataset with two axes."""
    shape = (stop - start, dataset.shape[1])
    array = np.empty(shape, dtype)
    if array.size:
        space = dataset.get_space()
        space.select_hyperslab((start, 0), shape)
        dataset.read(h5s.create_simple(shape), space, array)
    return array


_METADATA = (  # the entries of the SDK's own files, in its order
    "alignment compatible",
    "computational sequence description",
    "computational sequence version",
    "contact",
    "creator",
    "dataset bib citation",
    "dataset name",
    "dataset version",
    "dimension names",
    "featureset bib citation",
    "md5",
)


def write_sequence(
    path: Path,
    name: str,
    data: Mapping[str, tuple[np.ndarray, np.ndarray]],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a .csd file in the SDK's layout; the same input gives the same bytes.

    Args:
        path: Where to write; an existing file is replaced.
        name: Name of the sequence, its root group.
        data: Features (T, D) and intervals (T, 2) in seconds, by video or ``<video>[<n>]``.
        metadata: Values for the SDK's metadata entries; the others are empty.
    """
    entries = dict.fromkeys(_METADATA, "") | dict(metadata or {})
    entries |= {"root name": name, "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, name))}
    temporary = path.with_name(f".{path.name}.tmp")
    with h5py.File(temporary, "w") as file:
        root = file.create_group(name)
        group = root.create_group("data")
        for key, (features, intervals) in data.items():
            video = group.create_group(key)
            video.create_dataset("features", data=features)
            video.create_dataset("intervals", data=intervals)
        group = root.create_group("metadata")
        for entry, value in entries.items():
            group.create_dataset(entry, data=[json.dumps(value)], dtype=h5py.string_dtype())
    temporary.replace(path)


def _shorten(names: list[str]) -> str:
    return str([*names[:3], "..."] if len(names) > 3 else names)
