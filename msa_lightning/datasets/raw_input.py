"""What a user wants scored: files or folders of video, long or short, with or without words."""

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Literal

import numpy as np

from msa_lightning.datasets.cutting import cut as cut_clip
from msa_lightning.datasets.manifest import Manifest
from msa_lightning.datasets.media_folder import MediaFolder
from msa_lightning.datasets.transcripts import transcript_of
from msa_lightning.errors import ConfigError, DataNotFoundError
from msa_lightning.extractors.assets import WHISPER_TINY_EN, find
from msa_lightning.extractors.contract import RawClip, Reason, Span, Unusable
from msa_lightning.extractors.media import duration_s
from msa_lightning.extractors.speech import recognise


def read_input(
    path: Path,
    *,
    transcripts: str | None,
    text: str | None,
    asr: bool | Literal["auto"],
    asr_model: str | None,
    cut: Literal["auto", "none", "windows", "speech"],
    max_clip_s: float,
    window_s: float,
) -> Manifest:
    """List the clips of a media file or of a folder of them.

    Args:
        path: The file or folder.
        transcripts: Folder of the transcripts; None is beside the media.
        text: What is said, for a single file.
        asr: Recognise speech where there is no transcript; ``auto`` is if the extra is installed.
        asr_model: Folder of a faster-whisper model; None is the pinned one.
        cut: How files longer than ``max_clip_s`` are cut; see ``datasets.cutting.cut``.
        max_clip_s: Seconds.
        window_s: Seconds.

    Raises:
        DataNotFoundError: If there is nothing to score, or an extra or a model is missing.
        ConfigError: If the options contradict each other.
    """
    if asr not in (True, False, "auto"):
        raise ConfigError(f"asr: '{asr}' is not true, false or auto")
    model = _recogniser(asr_model) if asr else None
    if asr is True and model is None:
        raise DataNotFoundError(
            "asr: speech recognition needs pip install 'msa-lightning[asr]' and a model, from "
            "msa-doctor fetch=all or as asr_model=<folder>"
        )
    listed = MediaFolder(folder=str(path), transcripts=transcripts).manifest()
    clips = list(listed.clips)
    if text is not None:
        if len(clips) > 1:
            raise ConfigError(f"text: {path} has {len(clips)} files; give transcripts as files")
        clips = [_with_text(clips[0], text)]
    clips = [
        part
        for clip in clips
        for part in cut_clip(clip, how=cut, max_clip_s=max_clip_s, window_s=window_s)
    ]
    if len({clip.id for clip in clips}) < len(clips):
        ids = [clip.id for clip in clips]
        raise ConfigError(
            f"{path}: the parts of one file are called as another file is "
            f"({next(i for i in ids if ids.count(i) > 1)}); rename one, or use cut=none"
        )
    if model:
        clips = [clip if clip.text else _recognised(clip, model) for clip in clips]
    intervals = [_interval(clip.visual or clip.audio) for clip in clips]
    return Manifest(
        corpus=path.stem,
        synthetic=False,
        clips=clips,
        intervals=np.array(intervals, np.float64),
        splits=np.full(len(clips), "none"),
    )


def _with_text(clip: RawClip, text: str) -> RawClip:
    found = transcript_of(text, None)
    if isinstance(found, str):
        return dataclasses.replace(clip, text=None, missing=_but_text(clip) | {"text": found})
    return dataclasses.replace(clip, text=found, missing=_but_text(clip))


def _recogniser(path: str | None) -> Path | None:
    """Folder of the model, if speech can be recognised here."""
    if not importlib.util.find_spec("faster_whisper"):
        return None
    try:
        return find(WHISPER_TINY_EN, path).path
    except DataNotFoundError:
        if path:
            raise
        return None


def _recognised(clip: RawClip, model: Path) -> RawClip:
    if clip.audio is None:
        return clip
    try:
        return dataclasses.replace(clip, text=recognise(clip.audio, model), missing=_but_text(clip))
    except Unusable as finding:
        return dataclasses.replace(clip, missing=_but_text(clip) | {"text": finding.reason})


def _but_text(clip: RawClip) -> dict[str, Reason]:
    return {m: reason for m, reason in clip.missing.items() if m != "text"}


def _interval(span: Span | None) -> tuple[float, float]:
    """Start and end in seconds, NaN where unknown."""
    if span is None:
        return math.nan, math.nan
    if span.end_s is not None:
        return span.start_s, span.end_s
    try:
        end_s = duration_s(span.path)
    except Unusable:
        end_s = None
    return span.start_s, math.nan if end_s is None else end_s
