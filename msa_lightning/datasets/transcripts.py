"""Transcripts as files beside the media: plain text, subtitles, alignments of words."""

import html
import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path

import numpy as np

from msa_lightning.extractors.contract import Reason, Transcript, Unusable

Interval = tuple[float, float]
"""Start and end in seconds."""

_SILENCE = ("sil", "sp")
SUBTITLES = frozenset({".srt", ".vtt"})


def read_transcript(path: Path, duration_s: float | None = None) -> Transcript | Reason:
    """A text file as a transcript, or the reason why it is none.

    Subtitles (``.srt``, ``.vtt``) give the times of the words, too, and so does ``.align``: a line
    ``start end word`` for each word, in units of 1/25000 s, as in the GRID corpus.
    """
    if path.suffix.lower() in SUBTITLES:
        return read_subtitles(path, duration_s)
    try:
        text = _content(path)
    except Unusable as finding:
        return finding.reason
    if path.suffix != ".align":
        return transcript_of(text, duration_s)
    try:
        rows = [line.split() for line in text.splitlines() if line.strip()]
        spoken = [(float(a) / 25000, float(b) / 25000, w) for a, b, w in rows if w not in _SILENCE]
    except ValueError:
        return "transcript not readable"
    return from_words([(word, (start, end)) for start, end, word in spoken], duration_s)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Unusable("no transcript") from None
    except UnicodeDecodeError:
        raise Unusable("transcript not UTF-8") from None
    except OSError as error:
        raise Unusable("transcript not readable", str(error)) from error


def transcript_of(text: str | None, duration_s: float | None) -> Transcript | Reason:
    """A text as a transcript, or the reason why it is none; a duration of NaN is unknown."""
    if duration_s is not None and math.isnan(duration_s):
        duration_s = None
    if text is None:
        return "no transcript"
    if not (words := text.split()):
        return "empty transcript"
    return Transcript(" ".join(words), None, duration_s)


_CLOCK = r"(?:\d+:)?\d{1,2}:\d{1,2}(?:[.,]\d{1,3})?"
_CUE = re.compile(rf"\s*({_CLOCK})\s*-->\s*({_CLOCK})")
_INSIDE = re.compile(rf"<({_CLOCK})>")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}")

_AT_ONCE_S = 0.1  # rolling captions follow one another without a gap
_UNREADABLE_S = 0.05  # and between two of them some have one that nobody could read


def from_words(
    words: Sequence[tuple[str, Interval]], length_s: float | None
) -> Transcript | Reason:
    """Words and when each is said as a transcript, or the reason why it is none."""
    if not words:
        return "empty transcript"
    return Transcript(" ".join(w for w, _ in words), tuple(t for _, t in words), length_s)


def read_subtitles(path: Path, duration_s: float | None = None) -> Transcript | Reason:
    """A file of subtitles, .srt or .vtt, as a transcript, or the reason why it is none.

    The words of a cue are spread over its time by their number of characters, between the times
    that are given inside it, if any. A line that a rolling caption repeats counts once.
    """
    try:
        text = _content(path)
    except Unusable as finding:
        return finding.reason
    spaces_end = path.suffix.lower() == ".srt"  # in .vtt only an empty line ends a cue
    cues = list(_cues(text.split("\n"), spaces_end))
    if text.strip() and not cues and not text.startswith("WEBVTT"):
        return "transcript not readable"
    words = [
        timed for cue in sorted(_unrolled(cues), key=lambda c: c[:2]) for timed in _timed(*cue)
    ]
    return from_words(words, duration_s)


def _cues(lines: Sequence[str], spaces_end: bool) -> Iterator[tuple[float, float, list[str]]]:
    """Start, end and lines of each cue."""
    found = [(i, match) for i, line in enumerate(lines) if (match := _CUE.match(line))]
    ends = [*(i for i, _ in found), len(lines)][1:]
    for (i, match), end in zip(found, ends, strict=True):
        body = takewhile(lambda line: line.strip() if spaces_end else line, lines[i + 1 : end])
        start_s = _seconds(match[1])
        yield start_s, max(start_s, _seconds(match[2])), list(body)


def _unrolled(
    cues: Sequence[tuple[float, float, list[str]]],
) -> Iterator[tuple[float, float, str]]:
    """Start, end and text of each cue, without the line that it repeats of the one before."""
    shown, until_s = "", 0.0
    for start_s, end_s, lines in cues:
        plain = [" ".join(_plain(_INSIDE.sub("", line)).split()) for line in lines]
        rolls = len(lines) > 1 or end_s - start_s < _UNREADABLE_S
        repeats = rolls and plain[:1] == [shown] and start_s <= until_s + _AT_ONCE_S
        shown, until_s = next((line for line in reversed(plain) if line), ""), end_s
        yield start_s, end_s, " ".join(lines[1:] if repeats else lines)


def _timed(start_s: float, end_s: float, text: str) -> Iterator[tuple[str, Interval]]:
    """The words of a cue with their times."""
    parts = _INSIDE.split(text)  # text, time, text, time, ..., text
    edges = [start_s, *map(_seconds, parts[1::2]), end_s]
    for part, (from_s, to_s) in zip(parts[::2], pairwise(edges), strict=True):
        words = _plain(part).split()
        shares = np.cumsum([0, *map(len, words)]) / max(1, sum(map(len, words)))
        times = from_s + max(0.0, to_s - from_s) * shares
        yield from zip(words, pairwise(times.tolist()), strict=True)


def _plain(text: str) -> str:
    return html.unescape(_TAG.sub("", text))


def _seconds(clock: str) -> float:
    parts = clock.replace(",", ".").split(":")
    return sum(60.0**i * float(part) for i, part in enumerate(reversed(parts)))
