"""From long media files to clips: where to cut, and which words belong to which clip."""

import logging
from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import Literal, get_args

import numpy as np

from msa_lightning.datasets.transcripts import from_words
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
        from_words(words, end_s - start_s)
        for words, (start_s, end_s) in zip(said, intervals, strict=True)
    ]


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
