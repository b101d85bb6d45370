"""The raw half of the demo corpus: synthetic clips in the layout of CMU-MOSI, made on the spot.

Each clip has one latent sentiment z, part speaker and part clip. What a modality shows of it is
evidence e_m = z + noise, and the noises are independent, as in the feature half (``demo.py``):

- text: a sentence about a film whose words of sentiment follow e_text;
- audio: espeak-ng reads it aloud; pitch, its range, rate and loudness follow e_audio;
- visual: a photographed face smiles or frowns and moves its brows with e_visual; the mouth opens
  with the sound and the head moves, whatever the sentiment.

Speakers differ in voice, loudness, place and width of the face, light and mirror image. Labels are
z, rated by three people in steps of 1/3. The face is scikit-image's ``astronaut``: Eileen Collins,
by NASA, in the public domain.

On unseen videos of a corpus of 24 videos of 5 clips a ridge regression on the means correlates by
about .68 from text (all-MiniLM-L6-v2), .46 from audio (librosa29), .47 from visual (facemesh65) and
.74 from all three (mean of eight seeds).
"""

import csv
import importlib.util
import json
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msa_lightning.datasets.demo_clips import DemoClip, draw_clips
from msa_lightning.datasets.demo_face import FRAMES_HZ, SIZE, draw_frames
from msa_lightning.datasets.demo_voice import PAUSES_S, add_room, speak
from msa_lightning.datasets.labels import FOLDS
from msa_lightning.errors import ConfigError, DataNotFoundError

log = logging.getLogger(__name__)

_VERSION = 2  # counts up when the same options give other data
_SYNTHETIC = "synthetic: msa-lightning demo corpus, made by a program; nobody said this"
_STAMP, _LABELS, _FOLDS = "demo_media.json", "labels.csv", "standard_folds_video_ids.json"


def make_demo_media(folder: Path, *, seed: int, videos: int, clips_per_video: int) -> None:
    """Write the raw demo corpus, unless it is there already with the same options.

    A killed job starts anew. Written are, as in the original release,
    ``Raw/Video/Segmented/<id>.mp4`` (H.264, AAC), ``Raw/Audio/WAV_16000/Segmented/<id>.wav`` and
    ``Raw/Transcript/Segmented/<video>.annotprocessed``, with ``labels.csv`` and
    ``standard_folds_video_ids.json`` beside them.

    Args:
        folder: Where it goes.
        seed: The same seed gives the same files, with the same versions of the encoders.
        videos: How many videos there are; at least 6.
        clips_per_video: How many clips each has.

    Raises:
        ConfigError: If a number is too small, or the folder holds another corpus.
        DataNotFoundError: If the packages that make face and voice are not installed.
    """
    if videos < 6 or clips_per_video < 1:
        raise ConfigError("source.make: videos must be at least 6, clips_per_video at least 1")
    stamp, raw = folder / _STAMP, folder / "Raw"
    options: dict[str, Any] = {
        "corpus": _SYNTHETIC,
        "version": _VERSION,
        "seed": seed,
        "videos": videos,
        "clips_per_video": clips_per_video,
    }
    done = json.dumps(options | {"complete": True})
    clips = draw_clips(seed=seed, videos=videos, clips_per_video=clips_per_video)
    files = {path for clip in clips for path in _media(folder, clip)}
    files |= {folder / _LABELS, folder / _FOLDS, *(_transcript(folder, c.video) for c in clips)}
    if stamp.is_file() and stamp.read_text() == done and all(path.is_file() for path in files):
        return
    if not stamp.is_file() and (raw.exists() or (folder / _LABELS).exists()):
        raise ConfigError(
            f"{folder}: holds another corpus, there is no {_STAMP}; give the demo corpus a folder "
            "of its own"
        )
    _require("espeakng_loader", "skimage", "av", "cv2")
    log.info("writing the synthetic raw demo corpus (%d clips) to %s", len(clips), folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps(options | {"complete": False}))  # from here on the folder is ours
    if raw.exists():
        shutil.rmtree(raw)
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)

    # In a process of its own: what espeak-ng has said before changes how it sounds, so a second
    # corpus made by the same process would be another.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        speech, rate_hz = pool.submit(speak, clips).result()
    for clip, samples in zip(clips, speech, strict=True):
        video, wav = _media(folder, clip)
        sound = add_room(clip, samples, rate_hz)
        _write_mp4(video, draw_frames(clip, sound, rate_hz), sound, rate_hz)
        _write_wav(wav, sound, rate_hz)
    lengths = [len(samples) / rate_hz + sum(PAUSES_S) for samples in speech]
    _write_texts(folder, clips, lengths)
    stamp.write_text(done)


def _media(folder: Path, clip: DemoClip) -> tuple[Path, Path]:
    """Paths of the video and the sound of a clip."""
    return (
        folder / "Raw" / "Video" / "Segmented" / f"{clip.id}.mp4",
        folder / "Raw" / "Audio" / "WAV_16000" / "Segmented" / f"{clip.id}.wav",
    )


def _transcript(folder: Path, video: str) -> Path:
    return folder / "Raw" / "Transcript" / "Segmented" / f"{video}.annotprocessed"


def _write_mp4(
    path: Path, frames: NDArray[np.uint8], sound: NDArray[np.int16], rate_hz: int
) -> None:
    """Encode frames (F, H, W, 3) and samples (S,) as H.264 and AAC."""
    import av

    with av.open(str(path), "w", options={"fflags": "bitexact"}) as container:
        container.metadata.update(title=path.stem, comment=_SYNTHETIC)
        # The same bytes each time: one thread, and without x264's macroblock tree, whose vector
        # code gives others every time at some sizes of the picture, this one among them.
        options = {"crf": "20", "preset": "veryfast", "threads": "1", "mbtree": "0"}
        video = container.add_stream("libx264", rate=FRAMES_HZ, options=options)
        video.width, video.height = SIZE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=rate_hz, layout="mono")
        audio.bit_rate = 64_000
        for i, image in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, FRAMES_HZ)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        samples.sample_rate, samples.time_base = rate_hz, Fraction(1, rate_hz)
        samples.pts = 0
        container.mux(audio.encode(samples))
        container.mux(audio.encode())


def _write_wav(path: Path, sound: NDArray[np.int16], rate_hz: int) -> None:
    """Write samples (S,) at 16 kHz."""
    import wave

    from scipy.signal import resample_poly

    common = np.gcd(16_000, rate_hz)
    resampled = resample_poly(sound.astype(float), 16_000 // common, rate_hz // common)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.round(resampled.clip(-32768, 32767)).astype("<i2").tobytes())


def _write_texts(folder: Path, clips: Sequence[DemoClip], lengths: Sequence[float]) -> None:
    """Write transcripts, labels and folds; lengths are those of the clips in seconds."""
    lines: dict[str, list[str]] = {}
    folds: dict[str, list[str]] = {name: [] for name in FOLDS.values()}
    with (folder / _LABELS).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", "video_id", "clip", "split", "label", "start", "end", "text"])
        for clip, length in zip(clips, lengths, strict=True):
            if clip.n == 1:
                end = 0.0
                folds[FOLDS[clip.split]].append(clip.video)
            start, end = end + 0.5, end + 0.5 + length
            text = clip.text.upper()
            lines.setdefault(clip.video, []).append(f"{clip.n}_DELIM_{text}\n")
            times = f"{start:.3f}", f"{end:.3f}"
            rows.writerow(
                [clip.id, clip.video, clip.n, clip.split, f"{clip.label:.6g}", *times, text]
            )
    for video, said in lines.items():
        _transcript(folder, video).write_text("".join(said), encoding="utf-8")
    (folder / _FOLDS).write_text(json.dumps(folds))


def _require(*modules: str) -> None:
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise DataNotFoundError(
            f"{', '.join(missing)}: not installed; the demo corpus needs a face and a voice: "
            "pip install 'msa-lightning[demo]'"
        )
