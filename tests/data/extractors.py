"""Small extractors, whole and broken, for tests of what runs them."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from msa_lightning.extractors.contract import Extractor, Features, RawClip, Unusable


class Bytes:
    """Byte values of a file, in rows of four."""

    rate_hz = None
    weights = "none"
    columns = ("a", "b", "c", "d")

    def __init__(self, *, modality: str = "audio", scale: float = 1.0, version: int = 1) -> None:
        self.modality, self.scale, self.version = modality, scale, version
        self.name = "bytes"

    @property
    def identity(self) -> dict[str, Any]:
        return {"scale": self.scale, "version": self.version}

    def extract(self, clip: RawClip) -> Features:
        content = getattr(clip, self.modality).path.read_bytes()
        if not content:
            raise Unusable("empty file")
        values = np.resize(np.frombuffer(content, np.uint8), (-(-len(content) // 4), 4))
        values = values.astype(np.float32) * self.scale
        times = np.arange(len(values))[:, None] + np.array([0.0, 1.0])
        return Features(values, times, values.mean(0), {"frames": len(values)})


class Words:
    """Lengths of words, several transcripts at once; notes the size of each batch."""

    modality, name, rate_hz, columns, batch_size = "text", "words", None, ("length",), 3
    weights = "none"

    def __init__(self, *, notes: Path | None = None) -> None:
        self.notes = notes

    @property
    def identity(self) -> dict[str, Any]:
        return {}

    def extract_batch(self, clips: list[RawClip]) -> list[Features | Unusable]:
        if self.notes:
            with self.notes.open("a") as file:
                file.write(" ".join(clip.id for clip in clips) + "\n")
        return [self.extract(clip) for clip in clips]

    def extract(self, clip: RawClip) -> Features:
        assert clip.text
        if clip.text.text == "die":
            os._exit(9)
        lengths = np.array([[len(word)] for word in clip.text.text.split()], np.float32)
        times = np.zeros((len(lengths), 2))
        return Features(lengths, times, lengths.mean(0))


class Moody(Bytes):
    """Does what the name of the clip says: die, hang, raise, or be slow."""

    def extract(self, clip: RawClip) -> Features:
        if "die" in clip.id:
            os._exit(11)
        if "hang" in clip.id:
            time.sleep(1000)
        if "raise" in clip.id:
            raise RuntimeError("a defect")
        if "slow" in clip.id:
            time.sleep(0.3)
        return super().extract(clip)


class Threads(Bytes):
    """How many threads numpy's linear algebra would take."""

    def extract(self, clip: RawClip) -> Features:
        from threadpoolctl import threadpool_info

        np.ones((8, 8)) @ np.ones((8, 8))
        threads = np.array([[float(p["num_threads"])] * 4 for p in threadpool_info()], np.float32)
        return Features(threads, np.zeros((len(threads), 2)), threads.mean(0))


class Bomb:
    """Fails when a clip is extracted."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("extract_") or name == "extract":
            raise AssertionError("a full cache must not be extracted again")
        return getattr(self.extractor, name)
