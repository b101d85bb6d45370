"""The words of a clip, and when each of them is spoken."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msa_lightning.extractors.contract import RawClip, Transcript, Unusable


def transcript_in(clip: RawClip) -> Transcript:
    """The transcript of a clip.

    Raises:
        Unusable: If it has none, or one without words.
    """
    if clip.text is None:
        raise Unusable(clip.missing.get("text", "no transcript"))
    if not clip.text.text.split():
        raise Unusable("empty transcript")
    return clip.text


def word_times(
    transcript: Transcript,
) -> tuple[NDArray[np.float64], Literal["words", "estimated", "index"]]:
    """Start and end of each of N words, and how they are known.

    Returns:
        (N, 2) seconds if the times of the words are known; else estimated from the length of the
        clip, in proportion to the letters; else word i lasts from i to i + 1.

    Raises:
        Unusable: If there are not as many times as words.
    """
    words = transcript.text.split()
    if transcript.words is not None:
        if len(transcript.words) != len(words):
            detail = f"times of {len(transcript.words)} words for {len(words)}"
            raise Unusable("transcript not readable", detail)
        return np.array(transcript.words, np.float64), "words"
    if transcript.duration_s:
        letters = np.cumsum([0, *map(len, words)])
        edges = transcript.duration_s * letters / letters[-1]
        return np.stack([edges[:-1], edges[1:]], axis=1), "estimated"
    steps = np.arange(len(words), dtype=np.float64)
    return np.stack([steps, steps + 1], axis=1), "index"
