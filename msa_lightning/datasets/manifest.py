"""The raw clips of a corpus: a list of where everything lies, before anything is decoded."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msa_lightning.datasets.cutting import SUBTITLES, read_subtitles
from msa_lightning.datasets.labels import LabelColumns
from msa_lightning.extractors.contract import RawClip, Reason, Span, Transcript

_SILENCE = ("sil", "sp")
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


def read_transcript(path: Path, duration_s: float | None = None) -> Transcript | Reason:
    """A text file as a transcript, or the reason why it is none.

    Subtitles (``.srt``, ``.vtt``) give the times of the words, too, and so does ``.align``: a line
    ``start end word`` for each word, in units of 1/25000 s, as in the GRID corpus.
    """
    if path.suffix in SUBTITLES:
        return read_subtitles(path, duration_s)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return "no transcript"
    except UnicodeDecodeError:
        return "transcript not UTF-8"
    if path.suffix != ".align":
        return transcript_of(text, duration_s)
    try:
        rows = [line.split() for line in text.splitlines() if line.strip()]
        spoken = [(float(a) / 25000, float(b) / 25000, w) for a, b, w in rows if w not in _SILENCE]
    except ValueError:
        return "transcript not readable"
    if not spoken:
        return "empty transcript"
    times = tuple((a, b) for a, b, _ in spoken)
    return Transcript(" ".join(w for *_, w in spoken), times, duration_s)


def transcript_of(text: str | None, duration_s: float | None) -> Transcript | Reason:
    """A text as a transcript, or the reason why it is none; a duration of NaN is unknown."""
    if duration_s is not None and math.isnan(duration_s):
        duration_s = None
    if text is None:
        return "no transcript"
    if not (words := text.split()):
        return "empty transcript"
    return Transcript(" ".join(words), None, duration_s)


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
