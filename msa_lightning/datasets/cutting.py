"""From long media files to clips: where to cut, and which words belong to which clip."""

import html
import logging
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from math import ceil
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from msa_lightning.errors import ConfigError
from msa_lightning.extractors.contract import RawClip, Reason, Span, Transcript, Unusable
from msa_lightning.extractors.media import duration_s
from msa_lightning.extractors.speech import hears_speech, voiced

log = logging.getLogger(__name__)

How = Literal["auto", "none", "windows", "speech"]
Interval = tuple[float, float]
"""Start and end in seconds."""

BESIDE_S = 0.5
"""A word that lies beside a clip by no more than this is said in it: word times are that coarse."""

MARGIN_S = 0.2
"""Kept before and after speech, half of the pause at most: soft sounds are not heard as speech."""

SUBTITLES = frozenset({".srt", ".vtt"})


def cut(clip: RawClip, *, how: How, max_clip_s: float, window_s: float) -> list[RawClip]:
    """Cut a media file that is too long for one clip.

    By speech: voiced intervals are joined over the shortest pauses first, as long as they fit into
    a window, so that cuts fall into the longest pauses; what is longer than a clip may be, without
    a pause, is split evenly. What lies between is in no clip. A file in which nobody speaks is cut
    into windows.

    Args:
        clip: A whole file. A file without a known length stays whole.
        how: ``speech``, ``windows`` of fixed length (the last one is half as long to half as long
            again), ``none``, or ``auto``: by speech if the extra ``vad`` is installed, else into
            windows.
        max_clip_s: Cut what is longer than so many seconds.
        window_s: Length of windows, and of what short stretches of speech are joined up to.

    Returns:
        The clip as it is, or new ones named ``<id>_1``, ``<id>_2``, ... in the order of time. Words
        are in the clip where their middle lies. Where a transcript has no times, its words
        cannot be told apart: the new clips have none.

    Raises:
        ConfigError: If an option is wrong, or ``speech`` lacks the extra ``vad``.
    """
    if how not in get_args(How):
        raise ConfigError(f"cut: '{how}' is not one of {', '.join(get_args(How))}")
    if not 0 < window_s <= max_clip_s:
        raise ConfigError(
            f"window_s is {window_s:g} and max_clip_s is {max_clip_s:g}; a window must be longer "
            "than 0 and not longer than a clip"
        )
    length_s = None if how == "none" else _length_s(clip)
    if length_s is None or length_s <= max_clip_s:
        return [clip]
    intervals: Sequence[Interval] = ()
    if how == "speech" or (how == "auto" and hears_speech()):
        intervals = _stretches(_voices(clip), length_s, max_clip_s, window_s)
    intervals = intervals or _windows(length_s, window_s)
    texts = _texts(clip, intervals)
    return [
        _part(clip, n, interval, text)
        for n, (interval, text) in enumerate(zip(intervals, texts, strict=True), 1)
    ]


def _length_s(clip: RawClip) -> float | None:
    """Length of the longer of sound and frames; None if neither is known."""
    lengths: list[float] = []
    for span in (clip.visual, clip.audio):
        if span is None:
            continue
        try:
            end_s = duration_s(span.path) if span.end_s is None else span.end_s
        except Unusable:  # its extractor will say so
            continue
        if end_s is None:
            log.warning("%s: does not declare its length, so it is not cut", span.path)
        else:
            lengths.append(end_s - span.start_s)
    return max(lengths, default=None)


def _voices(clip: RawClip) -> list[Interval]:
    try:
        if clip.audio is None:
            raise Unusable(clip.missing.get("audio", "no audio stream"))
        found = voiced(clip.audio)
        why = "nobody speaks in it"
    except Unusable as finding:
        found, why = [], str(finding)
    if not found:
        log.warning("%s: cut into windows, not by speech: %s", clip.id, why)
    return found


def _stretches(
    voices: Sequence[Interval], length_s: float, max_clip_s: float, window_s: float
) -> list[Interval]:
    """Join what is spoken into stretches, give them a margin, and split the longest."""
    last, first = list(range(len(voices))), list(range(len(voices)))  # voices of a stretch
    for i in sorted(range(len(voices) - 1), key=lambda i: voices[i + 1][0] - voices[i][1]):
        a, b = first[i], last[i + 1]
        if voices[b][1] - voices[a][0] <= window_s:
            last[a], first[b] = b, a
    found: list[Interval] = []
    end_s, i = 0.0, 0
    while i < len(voices):
        begin_s = max(voices[i][0] - MARGIN_S, (end_s + voices[i][0]) / 2 if i else 0.0)
        end_s, i = voices[last[i]][1], last[i] + 1
        until_s = (end_s + voices[i][0]) / 2 if i < len(voices) else length_s
        until_s = max(end_s, min(end_s + MARGIN_S, until_s))
        parts = ceil((until_s - begin_s) / max_clip_s)
        found += list(pairwise(np.linspace(begin_s, until_s, parts + 1).tolist()))
    return found


def _windows(length_s: float, window_s: float) -> list[Interval]:
    """Windows one after the other; a rest of less than half a window is joined to the last."""
    n = max(1, int(length_s / window_s + 0.5))
    return list(pairwise([*(i * window_s for i in range(n)), length_s]))


def _texts(clip: RawClip, intervals: Sequence[Interval]) -> Sequence[Transcript | Reason]:
    """What is said in each interval."""
    text = clip.text
    if text is None:
        return [clip.missing.get("text", "no transcript")] * len(intervals)
    if text.words is None:
        if len(intervals) == 1:
            return [Transcript(text.text, None, intervals[0][1] - intervals[0][0])]
        log.warning(
            "%s: cut into %d clips without text, because its transcript does not say when a word "
            "is said; give one with times (.srt, .vtt or .align), or none and asr=true",
            clip.id,
            len(intervals),
        )
        return ["no transcript"] * len(intervals)
    starts, ends = np.array(intervals).T
    middles = np.array(text.words).mean(axis=1)
    # Between two clips a word belongs to the nearer one.
    owners = np.searchsorted((ends[:-1] + starts[1:]) / 2, middles, side="right")
    beside = np.maximum(starts[owners] - middles, middles - ends[owners]) > BESIDE_S
    if beside.any():
        log.warning(
            "%s: %d of %d words lie where nobody speaks or after the end, so they are in no clip",
            clip.id,
            beside.sum(),
            len(beside),
        )
    said: list[list[tuple[str, Interval]]] = [[] for _ in intervals]
    for word, times, owner, outside in zip(
        text.text.split(), text.words, owners, beside, strict=True
    ):
        if not outside:
            start_s, end_s = intervals[owner]
            a, b = (min(max(time_s, start_s), end_s) - start_s for time_s in times)
            said[owner].append((word, (a, b)))
    return [
        _transcript(words, end_s - start_s)
        for words, (start_s, end_s) in zip(said, intervals, strict=True)
    ]


def _transcript(
    words: Sequence[tuple[str, Interval]], length_s: float | None
) -> Transcript | Reason:
    if not words:
        return "empty transcript"
    return Transcript(" ".join(w for w, _ in words), tuple(t for _, t in words), length_s)


def _part(clip: RawClip, n: int, interval: Interval, text: Transcript | Reason) -> RawClip:
    missing = {m: reason for m, reason in clip.missing.items() if m != "text"}
    return RawClip(
        id=f"{clip.id}_{n}",
        video=clip.id,
        text=None if isinstance(text, str) else text,
        audio=_within(clip.audio, interval),
        visual=_within(clip.visual, interval),
        missing=missing | {"text": text} if isinstance(text, str) else missing,
    )


def _within(span: Span | None, interval: Interval) -> Span | None:
    return span and Span(span.path, span.start_s + interval[0], span.start_s + interval[1])


# ---- Subtitles.

_CLOCK = r"(?:\d+:)?\d{1,2}:\d{1,2}(?:[.,]\d{1,3})?"
_CUE = re.compile(rf"\s*({_CLOCK})\s*-->\s*({_CLOCK})")
_INSIDE = re.compile(rf"<({_CLOCK})>")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}")

_AT_ONCE_S = 0.1  # rolling captions follow one another without a gap
_UNREADABLE_S = 0.05  # and between two of them some have one that nobody could read


def read_subtitles(path: Path, duration_s: float | None = None) -> Transcript | Reason:
    """A file of subtitles, .srt or .vtt, as a transcript, or the reason why it is none.

    The words of a cue are spread over its time by their number of characters, between the times
    that are given inside it, if any. A line that a rolling caption repeats counts once.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return "no transcript"
    except UnicodeDecodeError:
        return "transcript not UTF-8"
    spaces_end = path.suffix.lower() == ".srt"  # in .vtt only an empty line ends a cue
    cues = list(_cues(text.split("\n"), spaces_end))
    if text.strip() and not cues and not text.startswith("WEBVTT"):
        return "transcript not readable"
    words = [
        timed for cue in sorted(_unrolled(cues), key=lambda c: c[:2]) for timed in _timed(*cue)
    ]
    return _transcript(words, duration_s)


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
