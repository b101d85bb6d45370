"""What a user wants scored: files or folders of video, long or short, with or without words."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np

from msa_lightning.datasets.cutting import cut as cut_clip
from msa_lightning.datasets.manifest import Manifest, transcript_of
from msa_lightning.datasets.media_folder import MediaFolder
from msa_lightning.errors import ConfigError
from msa_lightning.extractors.contract import RawClip, Unusable
from msa_lightning.extractors.media import duration_s


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
    recognising = asr is True or (
        asr == "auto" and bool(importlib.util.find_spec("faster_whisper"))
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
    if recognising:
        clips = [clip if clip.text else _recognised(clip, asr_model) for clip in clips]
    spans = [clip.visual or clip.audio for clip in clips]
    intervals = [
        (span.start_s, span.end_s if span.end_s is not None else duration_s(span.path))
        if span
        else (np.nan, np.nan)
        for span in spans
    ]
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
        return dataclasses.replace(clip, text=None, missing={**clip.missing, "text": found})
    return dataclasses.replace(clip, text=found)


def _recognised(clip: RawClip, model: str | None) -> RawClip:
    from msa_lightning.extractors.assets import WHISPER_TINY_EN, find
    from msa_lightning.extractors.speech import recognise

    if clip.audio is None:
        return clip
    folder = Path(model) if model else find(WHISPER_TINY_EN).path
    try:
        return dataclasses.replace(clip, text=recognise(clip.audio, folder))
    except Unusable as finding:
        return dataclasses.replace(clip, missing={**clip.missing, "text": finding.reason})
