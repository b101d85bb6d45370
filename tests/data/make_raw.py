"""A small corpus of raw media in CMU-MOSI's layout: sound and words, no faces."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from msa_lightning.datasets.mosi_raw import MosiRaw
from msa_lightning.extractors.extraction import Extraction
from msa_lightning.extractors.librosa import LibrosaFeatures
from msa_lightning.extractors.word_vectors import WordVectors
from tests.data.make_media import tone, write_media

WORDS = {"bad": -2.0, "dull": -1.0, "fine": 1.0, "great": 2.0}
VIDEOS, CLIPS = 10, 2


def make_raw(folder: Path) -> Path:
    """Ten videos of two half-second clips; pitch and words follow the label.

    ``v0_1`` is silent, ``v1_1`` says nothing. The word vectors are in ``vectors.txt``.
    """
    rng = np.random.default_rng(0)
    rows = ["video_id,clip_id,label,text,start,end"]
    folds: dict[str, list[str]] = {}
    split = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    for v in range(VIDEOS):
        lines = []
        for n in range(1, CLIPS + 1):
            word, label = list(WORDS.items())[rng.integers(len(WORDS))]
            amplitude = 0.0 if (v, n) == (0, 1) else 0.5
            pitch_hz = 300 + 60 * label
            sound = tone(0.5, rate_hz=16000, pitch_hz=pitch_hz, amplitude=amplitude)
            path = folder / f"Raw/Audio/WAV_16000/Segmented/v{v}_{n}.wav"
            write_media(path, sound=sound, rate_hz=16000)
            lines.append(f"{n}_DELIM_{'' if (v, n) == (1, 1) else f'IT WAS {word.upper()}'}\n")
            rows.append(f"v{v},{n},{label},,{n},{n + 0.5}")
        text = folder / f"Raw/Transcript/Segmented/v{v}.annotprocessed"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(lines))
        folds.setdefault(f"standard_{split[v]}_fold", []).append(f"v{v}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "folds.json").write_text(json.dumps(folds))
    make_vectors(folder)
    return folder


def make_vectors(folder: Path) -> None:
    """Write ``vectors.txt``: six words of three numbers."""
    vectors = {"it": (0, 0, 1), "was": (0, 1, 0)} | {w: (y, 1, 1) for w, y in WORDS.items()}
    lines = [f"{word} {' '.join(map(str, vector))}\n" for word, vector in vectors.items()]
    (folder / "vectors.txt").write_text("".join(lines))


def raw_source(folder: Path) -> MosiRaw:
    return MosiRaw(corpus="tiny", folder=str(folder), labels="labels.csv", folds="folds.json")


def raw_extraction(folder: Path, cache: Path, **changes: Any) -> Extraction:
    extractors = {
        "text": WordVectors(path=str(folder / "vectors.txt"), lowercase=True, name="words"),
        "audio": LibrosaFeatures(size=29, max_s=3.0),
    }
    options: dict[str, Any] = {
        "extractors": extractors,
        "modalities": ["text", "audio"],
        "cache": str(cache),
        "workers": 0,
        "max_failed": 0.1,
        "timeout_s": 60.0,
        "retry": False,
    }
    return Extraction(**options | changes)
