"""From a manifest and the feature caches to one clip file (:mod:`msa_lightning.datasets.hdf5`)."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from msa_lightning.datasets.cache import FeatureCache, source_key
from msa_lightning.datasets.hdf5 import ClipTable, FeatureWriter, write_table, write_whole
from msa_lightning.datasets.manifest import Manifest
from msa_lightning.extractors.contract import RawClip

log = logging.getLogger(__name__)


def assemble(
    manifest: Manifest,
    caches: Mapping[str, FeatureCache],
    aggregate: Literal["mean", "sequence"],
    folder: Path,
    *,
    lock: AbstractContextManager[object],
) -> Path:
    """Write ``<corpus>-<8 hex>.h5``, unless it is there: the name tells what it is made from.

    Clips that are in no cache, or could not be used, have no rows; the audit says why.

    Args:
        manifest: The clips and their labels.
        caches: By modality, filled.
        aggregate: One vector per clip, or its sequence with times.
        folder: Where the file goes.
        lock: Held while the file is written.

    Returns:
        The file.
    """
    source = {
        "extractors": {m: json.loads(cache.identity) for m, cache in caches.items()},
        "aggregate": aggregate,
    }
    content = [
        source,
        [[c.id, *_outcomes(c, caches)] for c in manifest.clips],
        manifest.splits.tolist(),
        {name: y.tolist() for name, y in manifest.targets.items()},
    ]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
    path = folder / f"{manifest.corpus}-{digest}.h5"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with lock:
        if path.exists():  # written by another process meanwhile
            return path
        _write(path, manifest, caches, aggregate, source)
    log.debug("%s: %d clips", path, len(manifest.clips))
    return path


def _write(
    path: Path,
    manifest: Manifest,
    caches: Mapping[str, FeatureCache],
    aggregate: Literal["mean", "sequence"],
    source: Mapping[str, object],
) -> None:
    masked: dict[str, dict[str, list[str]]] = {}
    with write_whole(path, path.parent) as file:
        digests = {}
        for m, cache in caches.items():
            group = file.create_group(f"features/{m}")
            digests[m], masked[m] = _write_modality(group, manifest, cache, aggregate)
        audit = {"masked": masked, "unmatched": dict(manifest.unmatched)}
        write_table(file, _table(manifest, path, aggregate), digests, source, audit)


def _outcomes(clip: RawClip, caches: Mapping[str, FeatureCache]) -> Iterator[tuple[str, str]]:
    """What each modality of a clip is made from, and why it cannot be used."""
    for m, cache in caches.items():
        entry = cache.find(clip)
        yield source_key(clip, m), entry.reason if entry else "not extracted"


def _write_modality(
    group: h5py.Group, manifest: Manifest, cache: FeatureCache, aggregate: str
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Write the rows of one modality; return digests, and the clips without rows by reason."""
    writer = FeatureWriter(group, len(cache.columns), times=aggregate == "sequence")
    masked: dict[str, list[str]] = {}
    lengths, frames = [], []
    for clip in manifest.clips:
        entry = cache.find(clip)
        if entry is None or entry.reason:
            reason = entry.reason if entry else clip.missing.get(cache.modality, "not extracted")
            masked.setdefault(reason, []).append(clip.id)
            lengths.append(0)
            frames.append(0)
            continue
        if aggregate == "sequence":
            values, times = (cache.read([entry], n)[clip.id] for n in ("values", "times"))
            writer.add(values, times)
            lengths.append(len(values))
        else:
            writer.add(cache.read([entry], "vector")[clip.id][None])
            lengths.append(1)
        frames.append(int(entry.facts["steps"]))
    writer.end_clips(lengths, frames)
    return writer.close(), masked


def _table(manifest: Manifest, path: Path, aggregate: str) -> ClipTable:
    return ClipTable(
        path=path,
        corpus=manifest.corpus,
        aggregate=aggregate,
        synthetic=manifest.synthetic,
        digest="",
        ids=np.array([clip.id for clip in manifest.clips]),
        videos=np.array([clip.video for clip in manifest.clips]),
        splits=manifest.splits,
        intervals=manifest.intervals,
        targets=dict(manifest.targets),
        columns={name: target.columns for name, target in manifest.columns.items()},
        dims={},
        frames={},
    )
