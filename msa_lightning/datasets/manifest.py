"""The raw clips of a corpus: a list of where everything lies, before anything is decoded."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from msa_lightning.datasets.labels import LabelColumns
from msa_lightning.errors import DataError
from msa_lightning.extractors.contract import RawClip, Reason, Transcript

MEDIA = frozenset({".mp4", ".avi", ".mpg", ".mpeg", ".mkv", ".webm", ".mov", ".m4v"})
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

    def __post_init__(self) -> None:
        if twice := [i for i, n in Counter(clip.id for clip in self.clips).items() if n > 1]:
            raise DataError(
                f"{self.corpus}: the clip ids {sorted(twice)[:3]} are there twice; every clip needs "
                "an id of its own: rename or remove one of each"
            )
        if wrong := [clip.id for clip in self.clips if "/" in clip.id or clip.id in ("", ".", "..")]:
            raise DataError(
                f"{self.corpus}: the clip ids {wrong[:3]} contain a slash or are empty; rename them"
            )


def inside(root: Path, path: Path) -> Path:
    """The path, if it lies in a folder, links followed.

    Raises:
        DataError: If it leads outside.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{path}: leads outside {root}; a corpus may only name files of its own folder"
        )
    return path


def read_transcript(
    path: Path, duration_s: float | None = None
) -> tuple[Transcript | None, Reason | None]:
    """A text file as a transcript, or the reason why it is none.

    An ``.align`` file has a line ``start end word`` for each word, in units of 1/25000 s, as in the
    GRID corpus; it also gives the times of the words.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None, "no transcript"
    except UnicodeDecodeError:
        return None, "transcript not UTF-8"
    if path.suffix != ".align":
        return check_text(text, duration_s)
    try:
        rows = [line.split() for line in text.splitlines() if line.strip()]
        spoken = [(float(a) / 25000, float(b) / 25000, w) for a, b, w in rows if w not in _SILENCE]
    except ValueError as error:
        raise DataError(
            f"{path}: expected lines 'start end word' ({error}); correct or remove the file"
        ) from error
    if not spoken:
        return None, "empty transcript"
    times = tuple((a, b) for a, b, _ in spoken)
    return Transcript(" ".join(w for *_, w in spoken), times, duration_s), None


def check_text(
    text: str | None, duration_s: float | None
) -> tuple[Transcript | None, Reason | None]:
    """A text as a transcript, or the reason why it is none."""
    if text is None:
        return None, "no transcript"
    if not (words := text.split()):
        return None, "empty transcript"
    return Transcript(" ".join(words), None, duration_s), None


def by_id(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by name without the ending.

    Raises:
        DataError: If two have the same.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if path.stem in found:
            raise DataError(
                f"{path} and {found[path.stem]} have the same id {path.stem}; rename or remove one"
            )
        found[path.stem] = path
    return found


_SILENCE = ("sil", "sp")
