"""Word vectors from a file, GloVe's say.

A file of any format is read once, piece by piece, into an HDF5 table in the user cache. Vectors are
then read from there one by one, so that a file of gigabytes takes next to no memory.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np
from numpy.typing import NDArray

from msa_lightning.datasets.hdf5 import write_whole
from msa_lightning.errors import DataError, DataNotFoundError
from msa_lightning.extractors.assets import GLOVE_6B_50D, find, places
from msa_lightning.extractors.contract import Features, RawClip, Unusable
from msa_lightning.extractors.digest import digest
from msa_lightning.extractors.transcripts import transcript_in, word_times

log = logging.getLogger(__name__)

_BLOCK = 8192  # words read at a time
_SAMPLE_BYTES = 2**16
_ENDS = re.compile(r"^[\W_]+|[\W_]+$")
_CONTRACTION = re.compile(r"(.+)(n't|'(?:s|m|d|re|ve|ll))", re.IGNORECASE)

Block = tuple[Sequence[bytes], NDArray[np.float32]]


class WordVectors:
    """The vectors of a clip's words; as one vector, their mean.

    Words are what stands between spaces, without what is neither letter nor digit at both ends. A
    contraction that has no vector is taken apart as in the Penn Treebank, after which GloVe was
    made (``do`` and ``n't``), and gives a step for each part. What is still unknown is left out.

    Args:
        path: Text (``word v1 ... vD``, as GloVe has it; a line ``N D`` may stand before, as
            word2vec and gensim write it), word2vec's binary format (``.bin``), or ``.npz`` with
            arrays ``words`` (N,) of text and ``vectors`` (N, D), read as a whole. The first vector
            of a word counts. ``glove_6b_50d`` is the pinned asset of that name.
        lowercase: Look words up in lower case; otherwise as they stand.
        name: Of the feature set.
    """

    modality = "text"
    rate_hz: float | None = None

    def __init__(self, *, path: str, lowercase: bool, name: str) -> None:
        self.lowercase, self.name = lowercase, name
        self.path, self.is_asset = Path(path), path == GLOVE_6B_50D.name

    @property
    def columns(self) -> Sequence[str]:
        """Numbers: a word vector has no named parts. The very first call makes the table."""
        return [f"dim_{i}" for i in range(_open(self._table)["vectors"].shape[1])]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Options and file."""
        return {"version": 1, "lowercase": self.lowercase, "file": self._digest}

    @property
    def weights(self) -> str:
        """Which vectors serve."""
        return str(self.path)

    def extract(self, clip: RawClip) -> Features:
        """Vectors of the known words of one clip.

        Raises:
            Unusable: If there is no transcript, or no word of it is known.
        """
        transcript = transcript_in(clip)
        times, kind = word_times(transcript)
        vectors: list[NDArray[np.float32]] = []
        steps: list[int] = []
        words = known = 0
        for i, written in enumerate(transcript.text.split()):
            if word := _ENDS.sub("", written).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"):
                found = self._look_up(word.lower() if self.lowercase else word)
                vectors += found
                steps += [i] * len(found)
                words, known = words + 1, known + bool(found)
        if not vectors:
            raise Unusable("no known word", f"none of {words} words is in {self.path.name}")
        values = np.stack(vectors)
        return Features(
            values=values,
            times=times[steps],
            vector=values.mean(axis=0, dtype=np.float64).astype(np.float32),
            facts={
                "words": words,
                "known_words": known,
                "known_share": round(known / words, 4),
                "times": kind,
            },
        )

    def _look_up(self, word: str) -> list[NDArray[np.float32]]:
        if (row := self._row(word)) is not None:
            rows: list[int | None] = [row]
        else:
            parts = _CONTRACTION.fullmatch(word)
            rows = [self._row(part) for part in parts.groups()] if parts else []
        vectors = _open(self._table)["vectors"]
        return [vectors[row] for row in rows if row is not None]

    def _row(self, word: str) -> int | None:
        keys, rows = _index(self._table)
        key = _key(word.encode())
        i = int(np.searchsorted(keys, key))
        return int(rows[i]) if i < len(keys) and keys[i] == key else None

    @cached_property
    def _digest(self) -> str:
        if self.is_asset:
            return find(GLOVE_6B_50D).sha256
        if not self.path.is_file():
            raise DataNotFoundError(
                f"{self.path}: not found (looked in {self.path.absolute().parent}); give the file "
                "of the word vectors as extractor.text.path=<file>"
            )
        return digest([self.path])

    @cached_property
    def _table(self) -> Path:
        """The file as a table: ``keys`` (N,), sorted, ``rows`` (N,) and ``vectors`` (R, D)."""
        table = places()[-1][0] / "word_vectors" / f"{self._digest[:16]}.h5"
        if not table.is_file():
            log.info("%s: read into %s, once", self.path, table)
            table.parent.mkdir(parents=True, exist_ok=True)
            _write_table(find(GLOVE_6B_50D).path if self.is_asset else self.path, table)
        return table


@cache
def _open(table: Path) -> h5py.File:
    return h5py.File(table, "r", locking=False)


@cache
def _index(table: Path) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    return _open(table)["keys"][()], _open(table)["rows"][()]


def _key(word: bytes) -> np.uint64:
    """64 bits stand for a word: two of a million words share them in one of 30 million files."""
    return np.uint64(int.from_bytes(hashlib.blake2b(word, digest_size=8).digest()))


def _write_table(path: Path, table: Path) -> None:
    keys: list[np.uint64] = []
    with write_whole(table, table.parent) as file:
        for words, vectors in _read(path):
            if not np.isfinite(vectors).all():
                row = len(keys) + int(np.isfinite(vectors).all(axis=1).argmin())
                raise DataError(f"{path}: vector {row + 1} is not finite; get the file again")
            if not keys:
                dim = vectors.shape[1]
                rows = max(1, _SAMPLE_BYTES // (4 * dim))
                file.create_dataset(
                    "vectors", (0, dim), np.float32, maxshape=(None, dim), chunks=(rows, dim)
                )
            file["vectors"].resize(len(keys) + len(words), axis=0)
            file["vectors"][len(keys) :] = vectors
            keys += map(_key, words)
        if not keys:
            raise DataError(f"{path}: there are no words in it; get the file again")
        file["keys"], file["rows"] = np.unique(np.array(keys), return_index=True)


def _read(path: Path) -> Iterator[Block]:
    if path.is_dir():
        return _read_asset(path)
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        raise DataError(f"{path}: empty; get the file again")
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".bin":
        return _read_binary(path)
    if start in (b"\x1f\x8b", b"PK"):
        raise DataError(f"{path}: compressed; unpack it and give what was in it")
    return _read_text(path)


def _read_asset(folder: Path) -> Iterator[Block]:
    import pandas as pd  # a command that finds its features in the cache does without

    words = pd.read_parquet(folder / "glove_6B_index.parquet")["index"].to_numpy(str)
    return _blocks(words, np.load(folder / "glove_6B_50d_emb.npy").astype(np.float32))


def _read_text(path: Path) -> Iterator[Block]:
    with path.open("rb") as file:
        first = file.readline()
        header = re.fullmatch(rb"\d+ (\d+)\s*", first)
        dim = int(header[1]) if header else len(first.rstrip().split(b" ")) - 1
        if dim < 1:
            raise DataError(
                f"{path}: expected lines of a word and its numbers; what gensim saved as its own "
                "objects has to be written with save_word2vec_format"
            )
        if not header:
            file.seek(0)
        before = 1 if header else 0
        while lines := list(islice(file, _BLOCK)):
            # From the right: some of GloVe's words have spaces in them.
            rows = [line.rstrip().rsplit(b" ", dim) for line in lines if line.strip()]
            try:
                vectors = np.array([row[1:] for row in rows], np.float32).reshape(-1, dim)
            except ValueError as error:
                raise DataError(
                    f"{path}: lines {before + 1} to {before + len(lines)}: expected a word and "
                    f"{dim} numbers in each ({error}); get the file again"
                ) from error
            yield [row[0] for row in rows], vectors
            before += len(lines)


def _read_binary(path: Path) -> Iterator[Block]:
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        header = re.match(rb"(\d+) (\d+)\n", data[:64])
        if not header:
            raise DataError(f"{path}: expected a line 'N D' first, as word2vec writes it")
        count, dim = int(header[1]), int(header[2])
        at = header.end()
        for first in range(0, count, _BLOCK):
            words, vectors = [], []
            for i in range(first, min(count, first + _BLOCK)):
                space = data.find(b" ", at)
                if space < 0 or space + 4 * dim >= len(data):
                    raise DataError(f"{path}: ends at word {i + 1} of {count}; get the file again")
                words.append(data[at:space].lstrip(b"\n"))
                at = space + 1 + 4 * dim
                vectors.append(data[space + 1 : at])
            yield words, np.frombuffer(b"".join(vectors), "<f4").reshape(-1, dim)


def _read_npz(path: Path) -> Iterator[Block]:
    try:
        with np.load(path) as file:
            words, vectors = file["words"], np.asarray(file["vectors"], np.float32)
    except (KeyError, ValueError, OSError, BadZipFile) as error:
        raise DataError(
            f"{path}: expected arrays 'words' (N,) of text and 'vectors' (N, D) ({error})"
        ) from error
    if words.dtype.kind != "U" or vectors.ndim != 2 or words.shape != vectors.shape[:1]:
        raise DataError(
            f"{path}: words are {words.shape} {words.dtype}, vectors {vectors.shape}; expected "
            "(N,) text and (N, D) numbers"
        )
    return _blocks(words, vectors)


def _blocks(words: NDArray[np.str_], vectors: NDArray[np.float32]) -> Iterator[Block]:
    for first in range(0, len(words), _BLOCK):
        block = slice(first, first + _BLOCK)
        yield [word.encode() for word in words[block].tolist()], vectors[block]
