"""From timed frames to labelled clips: which frames a clip has, their mean, or the frames as such.

A frame [s, e) overlaps a clip [a, b) if s < b and e > a; a frame of no length if a <= s < b.

NaN and infinities are counted and left out of a mean, column by column; a column of a clip with no
finite value is NaN, "never measured". In a sequence infinities become NaN.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

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


def means(rows: Rows, runs: list[Runs], nonfinite: NonFinite) -> np.ndarray:
    """Average the finite values of the frames of C clips, (C, D) float64; count the others.

    Args:
        rows: The frames of a video.
        runs: Which of them each clip has; at least one.
        nonfinite: Counts what is not finite.
    """
    sums = np.zeros((len(runs), rows.dim))
    counts = np.zeros((len(runs), 1))
    with np.errstate(invalid="ignore"):  # inf - inf
        for i, clip in enumerate(runs):
            for start, stop in sorted(clip):  # in the order of the file, read block by block
                counts[i] += stop - start
                for piece in rows.read(start, stop):
                    sums[i] += np.add.reduce(piece, axis=0, dtype=np.float64)
        averages = sums / counts
        for i in np.flatnonzero(~np.isfinite(sums).all(axis=1)).tolist():  # rare: seen in the sums
            averages[i] = _mean_of_finite(rows, runs[i], nonfinite)
    return averages


def _mean_of_finite(rows: Rows, runs: Runs, nonfinite: NonFinite) -> np.ndarray:
    total, count = np.zeros(rows.dim), np.zeros(rows.dim)
    for start, stop in sorted(runs):
        for piece in rows.read(start, stop):
            nonfinite.count(piece)
            finite = np.isfinite(piece)
            total += piece.sum(axis=0, dtype=np.float64, where=finite)
            count += finite.sum(axis=0)
    mean: np.ndarray = total / count  # 0 / 0 is NaN: never measured
    return mean


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
    clips: slice,
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
    for rows, runs in _frames_of_clips(sequence, labels, clips):
        frames = [sum(stop - start for start, stop in clip) for clip in runs]
        lengths = frames
        if rows is not None and (rows.words or rows.dim != nonfinite.dim):
            found = "words" if rows.words else f"{rows.dim} columns"
            raise DataError(
                f"{rows.where}/features: found {found}, expected {nonfinite.dim} columns as "
                "source.dims says; get the file again"
            )
        if rows is not None and aggregate == "mean":
            writer.add(means(rows, [clip for clip in runs if clip], nonfinite))
            lengths = [min(count, 1) for count in frames]
        elif rows is not None:
            for clip in runs:
                for values, times in frames_of(rows, clip, nonfinite):
                    writer.add(values, times)
        writer.end_clips(lengths, frames)


def _frames_of_clips(
    sequence: ComputationalSequence, labels: Labels, clips: slice
) -> Iterator[tuple[Rows | None, list[Runs]]]:
    """Yield rows, and which of them each next clip has; all rows of a segment are its own."""
    video = str(labels.videos[clips.start])
    if video in sequence.keys:
        rows = sequence.rows(video)
        yield rows, overlapping(rows.intervals, labels.intervals[clips])
        return
    for n in labels.segments[clips]:
        if (segment := f"{video}[{n}]") in sequence.keys:
            rows = sequence.rows(segment)
            yield rows, overlapping(rows.intervals, _ALWAYS)
        else:
            yield None, [[]]
