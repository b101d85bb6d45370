"""One picture of what the extractors see of a clip: frames with mesh, sound, words."""

import difflib
import logging
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msa_lightning.datasets.manifest import Manifest
from msa_lightning.errors import DataNotFoundError
from msa_lightning.extractors import media
from msa_lightning.extractors.contract import RawClip, Unusable
from msa_lightning.extractors.facemesh import FaceMesh
from msa_lightning.extractors.librosa import HOP, N_FFT, SAMPLE_RATE_HZ, load

log = logging.getLogger(__name__)

_FRAMES = 5


def draw_preview(
    manifest: Manifest, clip_id: str, extractors: Mapping[str, Any], out: str | None
) -> Path:
    """Draw a clip as its extractors see it; a modality that cannot be used shows its reason.

    Args:
        manifest: Where the clip is listed.
        clip_id: Which one.
        extractors: By modality; those that are there are drawn.
        out: The picture, a PNG; None is ``<clip id>.png`` in the working folder.

    Raises:
        DataNotFoundError: If there is no such clip.
    """
    from matplotlib.figure import Figure

    clips = {clip.id: clip for clip in manifest.clips}
    if clip_id not in clips:
        close = difflib.get_close_matches(clip_id, clips, n=3) or list(clips)[:3]
        raise DataNotFoundError(
            f"preview: {manifest.corpus} has no clip {clip_id}, but {', '.join(close)}; "
            f"choose one of its {len(clips)}"
        )
    clip = clips[clip_id]
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    rows: Any = figure.subfigures(4, 1, height_ratios=[2.6, 1.2, 2, 1])
    title = f"{clip_id}{' (synthetic)' if manifest.synthetic else ''}"
    figure.suptitle(title, parse_math=False)
    if "visual" in extractors:
        _draw_frames(rows[0], clip, extractors["visual"])
    end_s = None
    if "audio" in extractors:
        end_s = _draw_sound(rows[1], rows[2], clip, extractors["audio"].max_s)
    if "text" in extractors:
        _draw_words(rows[3], clip, end_s)
    path = Path(out or f"{clip_id}.png").with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)
    log.info("%s", path)
    return path


def _draw_frames(panel: Any, clip: RawClip, extractor: FaceMesh) -> None:
    try:
        if clip.visual is None:
            raise Unusable(clip.missing["visual"])
        limits = extractor.max_frames, extractor.rate_hz
        total = len([0 for _ in media.frames(clip.visual, max_frames=limits[0], rate_hz=limits[1])])
        wanted = set(np.linspace(0, total - 1, min(_FRAMES, total)).round().astype(int))
        shown, with_face = [], 0
        for number, (start, _, image, faces) in enumerate(extractor.look(clip.visual)):
            with_face += bool(faces)
            if number in wanted:
                shown.append((start, image, faces))
    except Unusable as finding:
        _say(panel, f"visual masked: {finding}")
        return
    panel.suptitle(
        f"visual: {extractor.name}, {total} frames, {with_face} with a face", fontsize=10
    )
    grid = panel.subplots(1, len(shown), squeeze=False)[0]
    for axes, (start, image, faces) in zip(grid, shown, strict=True):
        axes.imshow(image)
        ordered = sorted(faces, key=lambda face: face.area, reverse=True)
        for rank, face in enumerate(ordered):  # the one that counts is bright
            colour = "lime" if rank == 0 else "grey"
            axes.scatter(*face.landmarks[:, :2].T, s=0.4, color=colour, linewidths=0)
        axes.set_title(f"{start:.2f} s", fontsize=9)
        axes.set_axis_off()


def _draw_sound(wave: Any, spectrum: Any, clip: RawClip, max_s: float | None) -> float | None:
    """Draw wave and spectrogram; return how long the sound is, in seconds."""
    librosa = load()
    try:
        if clip.audio is None:
            raise Unusable(clip.missing["audio"])
        sound = media.sound(clip.audio, rate_hz=SAMPLE_RATE_HZ, max_s=max_s)
    except Unusable as finding:
        _say(wave, f"audio masked: {finding}")
        return None
    duration_s = len(sound) / SAMPLE_RATE_HZ
    axes = wave.subplots()
    axes.plot(np.arange(len(sound)) / SAMPLE_RATE_HZ, sound, linewidth=0.4)
    axes.set_xlim(0, duration_s)
    axes.set_ylabel("amplitude", fontsize=8)
    limit = f", the first {max_s:g} s at most" if max_s else ""
    axes.set_title(f"audio: {SAMPLE_RATE_HZ} Hz{limit}", fontsize=10)
    power = np.abs(librosa.stft(sound, n_fft=N_FFT, hop_length=HOP)) ** 2  # (1025, T)
    mel = librosa.feature.melspectrogram(S=power, sr=SAMPLE_RATE_HZ, n_fft=N_FFT)
    axes = spectrum.subplots()
    decibel = librosa.power_to_db(mel, ref=np.max)
    axes.imshow(decibel, origin="lower", aspect="auto", extent=(0, duration_s, 0, len(mel)))
    axes.set_ylabel("mel band", fontsize=8)
    axes.set_xlabel("seconds", fontsize=8)
    return duration_s


def _draw_words(panel: Any, clip: RawClip, end_s: float | None) -> None:
    if clip.text is None:
        _say(panel, f"text masked: {clip.missing['text']}")
        return
    if clip.text.words is None:
        _say(panel, "text: " + "\n".join(textwrap.wrap(clip.text.text, 120)[:4]))
        return
    axes = panel.subplots()
    words = zip(clip.text.text.split(), clip.text.words, strict=True)
    for number, (word, (start, end)) in enumerate(words):
        axes.axvspan(start, end, alpha=0.2 + 0.2 * (number % 2), linewidth=0)
        axes.text(
            (start + end) / 2, 0.5, word, ha="center", va="center", fontsize=9, parse_math=False
        )
    axes.set_xlim(0, end_s or clip.text.words[-1][1])
    axes.set_yticks([])
    axes.set_title("text: words and their times", fontsize=10)


def _say(panel: Any, text: str) -> None:
    panel.text(0.02, 0.5, text, va="center", parse_math=False)
