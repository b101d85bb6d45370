"""The feature cache: what one extractor found in each clip, in HDF5 part files.

``<cache>/<modality>/<extractor>-<8 hex of its identity>/`` holds part files (format
``msa-features``, version 1), each with up to some dozens of clips::

    index                           JSON: what each entry was made from, its reason and its facts
    clips/<clip id>/values          (T, D) float32
    clips/<clip id>/times           (T, 2) float64, seconds from the start of the clip
    clips/<clip id>/vector          (D,) float32, the clip as one vector

A clip that could not be used has a reason and no group. Another option or version of the extractor
is another folder, and a clip whose media changed is another entry (see :func:`source_key`), so that
nothing stale is served.
A part is written whole or not at all and never changed. That makes the union of all parts the
content: a killed job goes on from it, and several jobs may fill one cache. Where two parts have the
same clip, the usable one counts.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from msa_lightning.datasets.hdf5 import write_whole
from msa_lightning.errors import ConfigError
from msa_lightning.extractors.contract import Extractor, Features, RawClip, Span, Unusable
from msa_lightning.extractors.digest import digest

log = logging.getLogger(__name__)

FORMAT, VERSION = "msa-features", 1


@dataclass(frozen=True)
class Entry:
    """What the cache holds of one clip.

    Attributes:
        part: The file it is in.
        id: Clip id.
        reason: Why the clip could not be used; empty if it could.
        detail: What exactly was found then.
        facts: What the extractor recorded.
    """

    part: Path
    id: str
    reason: str
    detail: str
    facts: Mapping[str, Any]


class FeatureCache:
    """The features of one extractor.

    Args:
        root: Folder of all caches.
        extractor: Whose features.
    """

    def __init__(self, root: Path, extractor: Extractor) -> None:
        self.modality, self.columns = extractor.modality, list(extractor.columns)
        self.identity = json.dumps(
            {"extractor": extractor.name, **extractor.identity}, sort_keys=True
        )
        name = hashlib.sha256(f"{VERSION} {self.identity}".encode()).hexdigest()[:8]
        self.folder = root / extractor.modality / f"{extractor.name}-{name}"
        self._entries: dict[tuple[str, str], Entry] = {}
        self._known: set[Path] = set()

    def find(self, clip: RawClip) -> Entry | None:
        """What is cached of a clip as it is now; see :meth:`refresh`."""
        return self._entries.get((clip.id, source_key(clip, self.modality)))

    def refresh(self) -> None:
        """Look for parts written since; what cannot be read is left alone and does not count."""
        for part in sorted(set(self.folder.glob("*.h5")) - self._known):
            try:
                with h5py.File(part, "r", locking=False) as file:
                    index = json.loads(file["index"][()])
            except (OSError, KeyError, ValueError) as error:
                log.warning("%s: damaged (%s); its clips do not count, delete it", part, error)
                index = []
            self._known.add(part)
            for row in index:
                key = row["id"], row["source"]
                if key not in self._entries or self._entries[key].reason:
                    facts = row["reason"], row["detail"], row["facts"]
                    self._entries[key] = Entry(part, row["id"], *facts)

    def make_folder(self) -> None:
        """Make the folder, and sure that it can be written to.

        Raises:
            ConfigError: If it cannot.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ConfigError(
                f"paths.cache: {self.folder} cannot be written to ({error.strerror}); give another "
                "folder as paths.cache or MSA_CACHE"
            ) from error

    def write(self, results: Sequence[tuple[RawClip, Features | Unusable]]) -> None:
        """Write one part."""
        if not results:
            return
        index = [_index_row(clip, result, self.modality) for clip, result in results]
        text = json.dumps(index, sort_keys=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.h5"
        with write_whole(part, self.folder) as file:
            file.attrs.update({"format": FORMAT, "version": VERSION, "identity": self.identity})
            file["index"] = text
            for clip, result in results:
                if isinstance(result, Features):
                    group = file.create_group(f"clips/{clip.id}")
                    group["values"] = np.asarray(result.values, np.float32)
                    group["times"] = np.asarray(result.times, np.float64)
                    group["vector"] = np.asarray(result.vector, np.float32)
        self.refresh()

    def read(self, entries: Iterable[Entry], name: str) -> dict[str, np.ndarray]:
        """Read ``values``, ``times`` or ``vector`` of usable entries, by clip id."""
        by_part: dict[Path, list[str]] = {}
        for entry in entries:
            by_part.setdefault(entry.part, []).append(entry.id)
        found = {}
        for part, ids in by_part.items():
            with h5py.File(part, "r", locking=False) as file:
                for clip_id in ids:
                    found[clip_id] = file[f"clips/{clip_id}/{name}"][()]
        return found


def source_key(clip: RawClip, modality: str) -> str:
    """What a modality of a clip is made from, as 16 hex digits.

    The content of a media file is judged by its name, size, first and last 16 KiB.
    """
    source = getattr(clip, modality)
    if isinstance(source, Span):
        content: Any = [_digest_file(source.path), source.start_s, source.end_s]
    elif source is None:
        content = clip.missing.get(modality)
    else:
        content = [source.text, source.words, source.duration_s]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _index_row(clip: RawClip, result: Features | Unusable, modality: str) -> dict[str, Any]:
    row = {"id": clip.id, "source": source_key(clip, modality), "reason": "", "detail": ""}
    if isinstance(result, Unusable):
        return row | {"reason": result.reason, "detail": result.detail, "facts": {}}
    return row | {"facts": {"steps": len(result.values), **result.facts}}


def _digest_file(path: Path) -> str:
    try:
        stat = path.stat()
        return _digest_content(path, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return "unreadable"


@cache
def _digest_content(path: Path, _size: int, _modified: int) -> str:
    return digest([path])
