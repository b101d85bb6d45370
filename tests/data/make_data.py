"""Tiny corpora in the true file layouts."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_lightning.datasets.csd import write_sequence
from msa_lightning.datasets.csd_source import CsdSource
from msa_lightning.datasets.labels import LabelColumns

DIMS = {"text": 4, "audio": 3, "visual": 5}
FILES = {"text": "words.csd", "audio": "covarep.csd", "visual": "openface.csd"}
RATES_HZ = {"text": 2.5, "audio": 20.0, "visual": 10.0}
EMOTIONS = ["happy", "sad", "anger", "surprise", "disgust", "fear"]
TARGETS = {
    "sentiment": LabelColumns(["sentiment"], -3, 3),
    "emotions": LabelColumns(EMOTIONS, 0, 3),
}


@dataclass
class CsdCorpus:
    """Features and intervals by video, for each modality and the labels; change, then write."""

    sequences: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]
    labels: dict[str, tuple[np.ndarray, np.ndarray]]
    folds: dict[str, list[str]]

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for modality, data in self.sequences.items():
            write_sequence(folder / FILES[modality], modality, data)
        write_sequence(folder / "labels.csd", "All Labels", self.labels)
        (folder / "folds.json").write_text(json.dumps(self.folds))
        return folder


def csd_corpus(*, videos: int = 6, clips: int = 3, seed: int = 0) -> CsdCorpus:
    """Clips of 1 to 3 s with gaps between them; some video ids begin with '-' and have '_'."""
    rng = np.random.default_rng(seed)
    ids = [f"{'-' if i % 2 else ''}vid_{i:02d}" for i in range(videos)]
    corpus = CsdCorpus({m: {} for m in DIMS}, {}, {})
    for video in ids:
        edges = np.cumsum(rng.uniform([0.2, 1.0], [0.8, 3.0], (clips, 2)).ravel())
        labels = np.concatenate([rng.uniform(-3, 3, (clips, 1)), rng.uniform(0, 3, (clips, 6))], 1)
        corpus.labels[video] = labels.astype(np.float32), edges.reshape(-1, 2)
        for modality, dim in DIMS.items():
            starts = np.arange(0, edges[-1] + 1, 1 / RATES_HZ[modality])
            features = rng.normal(size=(len(starts), dim)).astype(np.float32)
            intervals = np.stack([starts, starts + 1 / RATES_HZ[modality]], axis=1)
            corpus.sequences[modality][video] = features, intervals
    parts = ids[: videos - 3], ids[videos - 3 : videos - 2], [ids[videos - 2]]  # one is in no fold
    names = [f"standard_{split}_fold" for split in ("train", "valid", "test")]
    corpus.folds = dict(zip(names, map(list, parts), strict=True))
    return corpus


def csd_source(folder: Path, output: Path, **changes: Any) -> CsdSource:
    """The source config of a tiny corpus."""
    arguments: dict[str, Any] = {
        "corpus": "tiny",
        "folder": str(folder),
        "features": FILES,
        "dims": DIMS,
        "labels": "labels.csd",
        "targets": TARGETS,
        "first_clip": 0,
        "folds": str(folder / "folds.json"),
        "aggregate": "mean",
        "output": str(output),
    }
    return CsdSource(**arguments | changes)


def real_data(name: str) -> Path:
    """A folder of the real corpora, or a skip with the reason."""
    root = os.environ.get("MSA_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"needs the folder {name} under MSA_DATA, which is {root or 'not set'}")
    return Path(root) / name
