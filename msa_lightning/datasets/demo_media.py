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

On unseen videos of the default corpus a ridge regression on the means correlates by about .68 from
text (all-MiniLM-L6-v2), .46 from audio (librosa29), .47 from visual (facemesh65) and .74 from all
three (mean of eight seeds).
"""

import csv
import importlib.util
import json
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msa_lightning.datasets.labels import FOLDS
from msa_lightning.errors import ConfigError, DataNotFoundError

log = logging.getLogger(__name__)

_VERSION = 1  # counts up when the same options give other data
_SYNTHETIC = "synthetic: msa-lightning demo corpus, made by a program; nobody said this"
_STAMP, _LABELS, _FOLDS = "demo_media.json", "labels.csv", "standard_folds_video_ids.json"
_NOISE = {"text": 0.55, "audio": 1.1, "visual": 1.5}  # of the evidence, in sd of z

# ---- What is said.

_WORDS = {  # adjectives by polarity
    -3: "horrible awful terrible disgusting dreadful unbearable pathetic atrocious",
    -2: "bad boring stupid annoying disappointing ridiculous ugly painful lousy",
    -1: "weak slow dull flat confusing silly forgettable clumsy predictable",
    0: "okay average ordinary typical normal usual plain standard familiar",
    1: "nice decent pleasant enjoyable interesting solid clever fun likeable",
    2: "good great funny exciting charming touching beautiful entertaining lovely",
    3: "amazing wonderful brilliant fantastic excellent perfect incredible superb outstanding",
}
_VERBS = {
    -3: "hated despised",
    -2: "disliked regretted",
    -1: "endured",
    0: "watched noticed",
    1: "liked",
    2: "enjoyed",
    3: "loved adored",
}
_TOPICS = "plot acting music story ending cast movie humor villain script"
_TEMPLATES = (
    "the {topic} was {word} and {second}",
    "I found the {topic} {word} and {second}",
    "I {verb} the {topic} it was {word}",
    "it was {word} and the {topic} {second}",
    "you know I {verb} the {word} {topic}",
)
_NEGATED = "the {topic} was not {word}"


@dataclass(frozen=True)
class Speaker:
    """What the clips of a video share."""

    voice: str
    pitch: float
    """Of espeak-ng, 0 to 99."""
    loudness_db: float
    width: float
    """Width of the face over its own."""
    offset: tuple[float, float]
    """Of the face in the picture, in pixels of the photograph."""
    tint: NDArray[np.float64]
    """Gain of each colour, (3,)."""
    mirrored: bool


@dataclass(frozen=True)
class DemoClip:
    """One clip before it is rendered.

    Attributes:
        video: Video id.
        n: Its number in the video, from 1.
        split: train, valid or test.
        label: Sentiment, -3 to 3.
        text: What is said.
        evidence: What each modality shows of the sentiment, about standard normal.
        speaker: Who speaks.
        seed: Of what is random in sound and picture.
    """

    video: str
    n: int
    split: str
    label: float
    text: str
    evidence: dict[str, float]
    speaker: Speaker
    seed: tuple[int, ...]

    @property
    def id(self) -> str:
        """``<video>_<n>``."""
        return f"{self.video}_{self.n}"


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
        speech, rate_hz = pool.submit(_speak, clips).result()
    for clip, samples in zip(clips, speech, strict=True):
        video, wav = _media(folder, clip)
        sound = _room(clip, samples, rate_hz)
        _write_mp4(video, _frames(clip, sound, rate_hz), sound, rate_hz)
        _write_wav(wav, sound, rate_hz)
    lengths = [len(samples) / rate_hz + sum(_PAUSES_S) for samples in speech]
    _write_texts(folder, clips, lengths)
    stamp.write_text(done)


def draw_clips(*, seed: int, videos: int, clips_per_video: int) -> list[DemoClip]:
    """Draw who says what, and what each modality shows."""
    rng = np.random.default_rng(seed)
    ids = [f"{'-' if i % 9 == 4 else ''}demo_{i:04d}" for i in range(videos)]
    splits = np.full(videos, "train", dtype=object)
    order = rng.permutation(videos)
    held_out = max(1, round(0.25 * videos)), max(1, round(0.125 * videos))
    splits[order[: held_out[0]]] = "test"
    splits[order[held_out[0] : sum(held_out)]] = "valid"
    latent, evidence = _draw_evidence(rng, videos, clips_per_video)
    ratings = np.round(0.2 + 1.5 * latent + 0.4 * rng.normal(size=(3, *latent.shape)))
    labels = ratings.clip(-3, 3).mean(axis=0)
    clips = []
    for i, (video, split) in enumerate(zip(ids, splits, strict=True)):
        speaker = _draw_speaker(rng)
        for j in range(clips_per_video):
            shown = {m: float(values[i, j]) for m, values in evidence.items()}
            clips.append(
                DemoClip(
                    video=video,
                    n=j + 1,
                    split=split,
                    label=float(labels[i, j]),
                    text=_write_sentence(rng, shown["text"]),
                    evidence=shown,
                    speaker=speaker,
                    seed=(seed, i, j),
                )
            )
    return clips


def _draw_evidence(
    rng: np.random.Generator, videos: int, clips: int
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Draw the sentiment z (videos, clips), and the evidence of it by modality, of the same shape.

    Sentiment and noises have mean 0, variance 1 and no correlation in the corpus itself, not only
    on average over seeds: in so few clips chance would decide which modality is worth something.
    """
    count = 1 + len(_NOISE)
    speaker, clip = rng.normal(size=(count, videos, 1)), rng.normal(size=(count, videos, clips))
    drawn = (np.sqrt(0.3) * speaker + np.sqrt(0.7) * clip).reshape(count, -1)
    drawn -= drawn.mean(axis=1, keepdims=True)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(drawn)))
    latent, *noises = (whitening @ drawn).reshape(count, videos, clips)
    return latent, {
        m: (latent + sd * noise) / np.hypot(1, sd)
        for (m, sd), noise in zip(_NOISE.items(), noises, strict=True)
    }


def _draw_speaker(rng: np.random.Generator) -> Speaker:
    accent = rng.choice(["en-us", "en-gb"])
    return Speaker(
        voice=f"{accent}+{rng.choice(['f1', 'f2', 'f3'])}",
        pitch=float(rng.uniform(40, 60)),
        loudness_db=float(rng.normal(0, 1)),
        width=float(rng.uniform(0.93, 1.07)),
        offset=(float(rng.uniform(-8, 8)), float(rng.uniform(-4, 4))),
        tint=rng.uniform(0.75, 1.15) * rng.uniform(0.92, 1.08, 3),
        mirrored=bool(rng.random() < 0.5),
    )


def _write_sentence(rng: np.random.Generator, evidence: float) -> str:
    """Write a sentence whose polarity follows the evidence."""

    def pick(words: dict[int, str], polarity: float, but: str = "") -> str:
        level = round(float(np.clip(polarity, -3, 3)))
        return str(rng.choice([word for word in words[level].split() if word != but]))

    polarity = 0.2 + 1.7 * evidence
    template = str(rng.choice(_TEMPLATES))
    if rng.random() < 0.06:
        template, polarity = _NEGATED, -polarity
    word = pick(_WORDS, polarity)
    return template.format(
        topic=rng.choice(_TOPICS.split()),
        word=word,
        second=pick(_WORDS, polarity + rng.normal(0, 0.5), but=word),
        verb=pick(_VERBS, polarity + rng.normal(0, 0.5)),
    )


# ---- How it sounds.

_PAUSES_S = 0.1, 0.1  # before and after
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak-ng's parameters
_SYNCHRONOUS, _CHARACTER, _UTF8 = 2, 1, 1


def _speak(clips: Sequence[DemoClip]) -> tuple[list[NDArray[np.int16]], int]:
    """Read the sentences aloud: samples (S,) of each clip and their rate in Hz."""
    import ctypes

    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = str(espeakng_loader.get_data_path()).encode()
    rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
    if rate_hz <= 0:
        raise DataNotFoundError(
            f"{data.decode()}: espeak-ng cannot use its voices; "
            "pip install --force-reinstall espeakng-loader"
        )
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # it is the time of day until then
    pieces: list[NDArray[np.int16]] = []

    def take(samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(np.int16))
        return 0

    samples_of = ctypes.POINTER(ctypes.c_short)
    callback = ctypes.CFUNCTYPE(ctypes.c_int, samples_of, ctypes.c_int, ctypes.c_void_p)(take)
    library.espeak_SetSynthCallback(callback)
    spoken = []
    for clip in clips:
        speaker, evidence = clip.speaker, clip.evidence["audio"]
        library.espeak_SetVoiceByName(speaker.voice.encode())
        library.espeak_SetParameter(_RATE, round(float(np.clip(205 + 16 * evidence, 185, 250))), 0)
        library.espeak_SetParameter(_VOLUME, 100, 0)
        library.espeak_SetParameter(_PITCH, round(speaker.pitch + 12 * np.clip(evidence, -3, 3)), 0)
        library.espeak_SetParameter(_RANGE, round(50 + 15 * float(np.clip(evidence, -3, 3))), 0)
        text = clip.text.encode() + b"\0"
        library.espeak_Synth(text, len(text), 0, _CHARACTER, 0, _UTF8, None, None)
        spoken.append(np.concatenate(pieces))
        pieces.clear()
    return spoken, rate_hz


def _room(clip: DemoClip, samples: NDArray[np.int16], rate_hz: int) -> NDArray[np.int16]:
    """Set the loudness, and add pauses and the noise of a room."""
    rng = np.random.default_rng((*clip.seed, 0))
    before, after = (round(pause * rate_hz) for pause in _PAUSES_S)
    sound = np.pad(samples / 32768, (before, after))
    loudness_db = -23 + clip.speaker.loudness_db + 3.5 * np.clip(clip.evidence["audio"], -3, 3)
    sound *= 10 ** (loudness_db / 20) / np.sqrt(np.mean(np.square(samples / 32768)))
    sound += 0.001 * rng.standard_normal(len(sound))
    return np.round(32767 * sound.clip(-1, 1)).astype(np.int16)


# ---- How it looks.

_FRAMES_HZ = 12
_SIZE = 208, 224  # width and height of the frames
_ZOOM = 1.2  # pixels of a frame per pixel of the photograph
_PATCH = slice(0, 256), slice(96, 352)  # rows and columns of the photograph around the face
_CENTRE = 128, 124  # of the face in the patch, x and y

# Where the face moves at a displacement of 1: x and y in the patch, displacement to the right
# and down, and radius, all in pixels.
_ACTIONS: dict[str, tuple[tuple[float, float, float, float, float], ...]] = {
    "smile": ((105, 140, -4, -6, 11), (150, 141, 4, -6, 11), (127, 153, 0, 3, 9)),
    "brows": ((102, 86, 0, -4, 9), (119, 88, 1, -5, 9), (140, 89, -1, -5, 9), (158, 89, 0, -4, 9)),
    "open": ((127, 156, 0, 7, 12), (125, 176, 0, 7, 16)),
}


def _frames(clip: DemoClip, sound: NDArray[np.int16], rate_hz: int) -> NDArray[np.uint8]:
    """Animate the face: frames (F, H, W, 3)."""
    import cv2
    from skimage import data

    rng = np.random.default_rng((*clip.seed, 1))
    count = max(1, round(len(sound) / rate_hz * _FRAMES_HZ))
    moves = _moves(rng, clip, count, sound)
    patch, speaker = data.astronaut()[_PATCH], clip.speaker  # type: ignore[no-untyped-call]
    height, width = patch.shape[:2]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    fields = {name: _field(points, grid) for name, points in _ACTIONS.items()}

    frames = np.empty((count, _SIZE[1], _SIZE[0], 3), np.uint8)
    for i in range(count):
        moved = sum(moves[name][i] * field for name, field in fields.items())
        x, y = cv2.split((grid - moved).astype(np.float32))
        face = cv2.remap(patch, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        angle, zoom = moves["turn"][i], _ZOOM * moves["zoom"][i]
        cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
        pose = np.array([[cos * speaker.width, -sin], [sin * speaker.width, cos]])
        at = np.array(_SIZE) / 2 + zoom * np.array([moves["right"][i], moves["down"][i]])
        affine = np.column_stack([pose, at - pose @ _CENTRE])
        frames[i] = cv2.warpAffine(face, affine, _SIZE, borderMode=cv2.BORDER_REFLECT)
    frames = (frames * speaker.tint).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(frames[:, :, ::-1]) if speaker.mirrored else frames


def _moves(
    rng: np.random.Generator, clip: DemoClip, count: int, sound: NDArray[np.int16]
) -> dict[str, NDArray[np.float64]]:
    """Displacement of each action and pose of the head by frame, (F,) each."""
    evidence = np.clip(clip.evidence["visual"], -2.5, 2.5)
    parts = np.array_split(sound.astype(float), count)
    energy = np.sqrt([np.mean(part**2) for part in parts])
    right, down = clip.speaker.offset
    return {
        "smile": -0.55 + 0.42 * evidence + 0.1 * _drift(rng, count),
        "brows": 0.4 * evidence + 0.15 * _drift(rng, count),
        "open": 0.9 * energy / energy.max() - 0.2,
        "turn": 0.03 * _drift(rng, count),
        "zoom": 1 + 0.02 * _drift(rng, count),
        "right": right + 1.5 * _drift(rng, count),
        "down": down + 1.5 * _drift(rng, count),
    }


def _drift(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw a slow movement about 0: a sum of three sines below 1.5 Hz, (F,)."""
    times = np.arange(count) / _FRAMES_HZ
    hz, phases = rng.uniform(0.1, 1.5, 3), rng.uniform(0, 2 * np.pi, 3)
    drift: NDArray[np.float64] = np.sin(2 * np.pi * np.outer(times, hz) + phases).sum(axis=1)
    return drift


def _field(points: Sequence[tuple[float, ...]], grid: NDArray[np.float32]) -> NDArray[np.float64]:
    """Displacement of each pixel, (H, W, 2): a sum of Gaussians."""
    field = np.zeros(grid.shape)
    for x, y, right, down, radius in points:
        distance = np.linalg.norm(grid - (x, y), axis=-1, keepdims=True)
        field += np.exp(-0.5 * (distance / radius) ** 2) * (right, down)
    return field


# ---- The files.


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
        video = container.add_stream("libx264", rate=_FRAMES_HZ, options=options)
        video.width, video.height = _SIZE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=rate_hz, layout="mono")
        audio.bit_rate = 64_000
        for i, image in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, _FRAMES_HZ)
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
