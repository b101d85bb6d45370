"""What goes into an extractor, what comes out, and what it says when a clip cannot be used.

An extractor is one plain class in one file. It has no base class; it fits :class:`Extractor`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Reason = Literal[
    "no file",
    "duplicate id",
    "outside data folder",
    "empty file",
    "not decodable",
    "no video stream",
    "no audio stream",
    "too short",
    "silent",
    "no face",
    "no transcript",
    "empty transcript",
    "transcript not UTF-8",
    "transcript not readable",
    "no known word",
    "worker died",
    "timed out",
    "extractor failed",
]
"""Why a modality of a clip is masked."""

REASONS: tuple[str, ...] = get_args(Reason)


class Unusable(Exception):  # noqa: N818 - a finding, not an error
    """A modality of a clip cannot be extracted; it is masked, and the job goes on.

    Args:
        reason: For the table of reasons.
        detail: What exactly was found.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)  # as arguments, so that it survives pickling
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True)
class Span:
    """Part of a media file.

    Attributes:
        path: The file.
        start_s: Where the part begins.
        end_s: Where it ends; None is the end of the file.
    """

    path: Path
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class Transcript:
    """What is said in a clip.

    Attributes:
        text: The words.
        words: Start and end of every word of ``text.split()``, in seconds from the start of the
            clip; None where that is not known.
        duration_s: Length of the clip, None if unknown.
    """

    text: str
    words: tuple[tuple[float, float], ...] | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class RawClip:
    """A clip before extraction: where each modality comes from.

    Attributes:
        id: ``<video>_<n>``.
        video: What it was cut from.
        text: Its transcript.
        audio: The sound, often a part of the same file as the frames.
        visual: The frames.
        missing: Why a modality that is None is not there.
    """

    id: str
    video: str
    text: Transcript | None = None
    audio: Span | None = None
    visual: Span | None = None
    missing: Mapping[str, Reason] = field(default_factory=dict)


@dataclass(frozen=True)
class Features:
    """What an extractor found in one clip.

    Attributes:
        values: One row per step, (T, D) float32, T at least 1, finite.
        times: Start and end of each step in seconds from the start of the clip, (T, 2) float64.
        vector: The clip as one vector, (D,) float32; as a rule the mean of ``values``.
        facts: What else is worth recording, ``{"frames": 75, "frames_with_face": 74}`` say.
    """

    values: NDArray[np.float32]
    times: NDArray[np.float64]
    vector: NDArray[np.float32]
    facts: Mapping[str, float | int | str] = field(default_factory=dict)


class Extractor(Protocol):
    """From one modality of a raw clip to a sequence of features.

    Making one is cheap: models are loaded when the first clip comes, so that a full cache loads
    none.
    """

    modality: str
    """text, audio or visual."""

    name: str
    """Of the feature set, ``facemesh65`` say; part of the cache's file names."""

    rate_hz: float | None
    """Steps per second; None where they follow the frames or words of the clip."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the D columns."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that can change the features: version, options, pinned weights; JSON."""

    @property
    def weights(self) -> str:
        """Which pretrained weights serve and where they come from, for people; or none."""

    def extract(self, clip: RawClip) -> Features:
        """Features of one clip.

        Raises:
            Unusable: If this modality of the clip cannot be used.
        """


class BatchExtractor(Extractor, Protocol):
    """An extractor that is faster on several clips at once."""

    batch_size: int

    def extract_batch(self, clips: Sequence[RawClip]) -> list[Features | Unusable]:
        """Features of several clips, or why there are none, in the order of ``clips``."""
