"""The raw clips of a corpus: a list of where everything lies, before anything is decoded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msa_lightning.datasets.labels import LabelColumns
from msa_lightning.extractors.contract import RawClip, Reason, Span, Transcript

VIDEO = frozenset({".mp4", ".avi", ".mpg", ".mpeg", ".mkv", ".webm", ".mov", ".m4v"})
SOUND = frozenset({".wav", ".flac", ".mp3", ".ogg", ".m4a"})


@dataclass(frozen=True)
class Manifest:
    """N raw clips, ordered by video id, then clip number.

    Attributes:
        corpus: Name of the corpus.
        synthetic: True if it was made by a program.
        clips: Where each modality of each clip comes from.
        intervals: Start and end in seconds of the video, NaN where unknown, (N, 2) float64.
        splits: train, valid, test or none, (N,) str.
        targets: Labels (N, K) float32 by target name; empty for a corpus without labels.
        columns: What the columns of the targets are.
        unmatched: What was left over, by what it is: ``{"media without a label": [...]}``.
    """

    corpus: str
    synthetic: bool
    clips: Sequence[RawClip]
    intervals: np.ndarray
    splits: np.ndarray
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)
    columns: Mapping[str, LabelColumns] = field(default_factory=dict)
    unmatched: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Listed:
    """A source whose manifest is known.

    Attributes:
        known: The manifest.
    """

    known: Manifest

    def manifest(self) -> Manifest:
        """The manifest."""
        return self.known


def by_id(paths: Iterable[Path]) -> dict[str, Path | None]:
    """Files by name without the ending; None where two files have the same."""
    found: dict[str, Path | None] = {}
    for path in sorted(paths):
        found[path.stem] = None if path.stem in found else path
    return found


def span(
    files: Mapping[str, Path | None], name: str, interval: tuple[float, float | None] = (0.0, None)
) -> Span | Reason:
    """A part of the file of that name, or the reason why there is none."""
    if name not in files:
        return "no file"
    path = files[name]
    return Span(path, *interval) if path else "duplicate id"


def raw_clip(clip_id: str, video: str, **sources: Span | Transcript | Reason) -> RawClip:
    """A clip from what was found of each modality: its source, or the reason for having none."""
    missing = {m: found for m, found in sources.items() if isinstance(found, str)}
    present: Any = {m: found for m, found in sources.items() if not isinstance(found, str)}
    return RawClip(clip_id, video, **present, missing=missing)
