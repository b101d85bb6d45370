"""From timed frames to labelled clips: which frames a clip has, their mean, or the frames as such.

A frame [s, e) overlaps a clip [a, b) if s < b and e > a; a frame of no length if a <= s < b.

NaN and infinities are counted and left out of a mean, column by column; a column of a clip with no
finite value is NaN, "never measured". In a sequence infinities become NaN.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from msa_lightning.datasets.csd import ComputationalSequence, Rows
from msa_lightning.datasets.hdf5 import FeatureWriter
from msa_lightning.datasets.labels import Labels
from msa_lightning.errors import DataError

Runs = list[tuple[int, int]]
"""Ranges of rows, start to stop, in order of time."""

_ALWAYS = np.array([[-np.inf, np.inf]])


@dataclass
class NonFinite:
    """How many values of each column were NaN or infinite, in the frames of the clips.

    Args:
        dim: Feature size D.
    """

    dim: int
    nan: np.ndarray = field(init=False)
    inf: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.nan = np.zeros(self.dim, np.int64)
        self.inf = np.zeros(self.dim, np.int64)

    def count(self, frames: np.ndarray) -> None:
        """Count the values of some frames (R, D)."""
        self.nan += np.isnan(frames).sum(axis=0)
        self.inf += np.isinf(frames).sum(axis=0)


def overlapping(frames: np.ndarray, clips: np.ndarray) -> list[Runs]:
    """Find the frames that overlap each clip.

    Args:
        frames: Start and end of T frames in seconds, (T, 2), in any order.
        clips: Start and end of C clips in seconds, (C, 2).
    """
    starts, ends = frames.T
    ends = np.where(ends > starts, ends, np.nextafter(starts, np.inf))  # of no length: an instant
    if (starts[1:] >= starts[:-1]).all() and (ends[1:] >= ends[:-1]).all():
        first = np.searchsorted(ends, clips[:, 0], side="right").tolist()
        last = np.searchsorted(starts, clips[:, 1], side="left").tolist()
        return [[(a, b)] if a < b else [] for a, b in zip(first, last, strict=True)]
    order = np.lexsort((ends, starts))
    starts, ends = starts[order], ends[order]
    found = []
    for start, end in clips:
        rows = order[(starts < end) & (ends > start)]
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        found.append([(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)])
    return found


@np.errstate(invalid="ignore")  # inf - inf; 0 / 0 is NaN: never measured
def mean(rows: Rows, runs: Runs, nonfinite: NonFinite) -> np.ndarray:
    """Average the finite values of some frames, (D,) float64, and count the others."""
    total: Any = 0.0
    count: Any = 0  # of each column, once they differ
    for start, stop in sorted(runs):  # in the order of the file, which is read block by block
        for piece in rows.read(start, stop):
            sums, kept = piece.sum(axis=0, dtype=np.float64), len(piece)
            if not np.isfinite(sums).all():  # one look at the sums spares one at each value
                nonfinite.count(piece)
                finite = np.isfinite(piece)
                sums, kept = piece.sum(axis=0, dtype=np.float64, where=finite), finite.sum(axis=0)
            total += sums
            count += kept
    return total / count


def frames_of(
    rows: Rows, runs: Runs, nonfinite: NonFinite
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield some frames (R, D) and their times (R, 2), and count what is not finite in them."""
    for start, stop in runs:
        for piece in rows.read(start, stop):
            times = rows.intervals[start : start + len(piece)]
            start += len(piece)
            if not np.isfinite(piece).all():
                nonfinite.count(piece)
                piece = np.where(np.isinf(piece), np.float32(np.nan), piece)
            yield piece, times


def write_video(
    writer: FeatureWriter,
    sequence: ComputationalSequence,
    labels: Labels,
    clips: range,
    aggregate: str,
    nonfinite: NonFinite,
) -> None:
    """Write one modality of the clips of one video.

    Args:
        writer: Where to.
        sequence: Frames of the modality, by video or by segment.
        labels: The clips of the corpus.
        clips: Which of them; all of one video.
        aggregate: ``mean`` or ``sequence``.
        nonfinite: Counts what is not finite.

    Raises:
        DataError: If the frames are not what the sequence promises.
    """
    for rows, runs in _frames_per_clip(sequence, labels, clips):
        frames = sum(stop - start for start, stop in runs)
        if rows is not None and (rows.words or rows.dim != nonfinite.dim):
            found = "words" if rows.words else f"{rows.dim} columns"
            raise DataError(
                f"{rows.where}/features: found {found}, expected {nonfinite.dim} columns as "
                "source.dims says; get the file again"
            )
        if rows is None or frames == 0:
            writer.end_clip(0, 0)
        elif aggregate == "mean":
            writer.add(mean(rows, runs, nonfinite)[None])
            writer.end_clip(1, frames)
        else:
            for values, times in frames_of(rows, runs, nonfinite):
                writer.add(values, times)
            writer.end_clip(frames, frames)


def _frames_per_clip(
    sequence: ComputationalSequence, labels: Labels, clips: range
) -> Iterator[tuple[Rows | None, Runs]]:
    """Yield rows, and which of them, of each clip; what is filed under a segment is all its own."""
    video = str(labels.videos[clips[0]])
    whole = sequence.rows(video) if video in sequence.keys else None
    runs = overlapping(whole.intervals, labels.intervals[clips]) if whole else [[] for _ in clips]
    for clip, runs_of_clip in zip(clips, runs, strict=True):
        segment = f"{video}[{labels.segments[clip]}]"
        if segment in sequence.keys:
            rows = sequence.rows(segment)
            yield rows, overlapping(rows.intervals, _ALWAYS)[0]
        else:
            yield whole, runs_of_clip
