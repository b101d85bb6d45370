"""Small true media files: pictures that carry their number, sound that can be found again."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
import numpy as np

CODECS: dict[str, tuple[str | None, str | None]] = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "flac"),
    ".webm": ("libvpx-vp9", "libopus"),
    ".avi": ("mpeg4", "pcm_s16le"),
    ".mpg": ("mpeg1video", "mp2"),
    ".wav": (None, "pcm_s16le"),
    ".flac": (None, "flac"),
    ".mp3": (None, "libmp3lame"),
    ".ogg": (None, "libopus"),
}
"""Encoders of pictures and of sound, by the ending of the file."""

VIDEOS: dict[str, tuple[str, tuple[str, str] | None]] = {
    "mp4": (".mp4", None),
    "mov": (".mov", None),
    "mkv": (".mkv", None),
    "webm": (".webm", None),
    "webm vp8": (".webm", ("libvpx", "libopus")),
    "avi": (".avi", None),
    "mpg": (".mpg", None),
    "mpg mpeg2": (".mpg", ("mpeg2video", "mp2")),
}
"""Endings and codecs in which pictures and sound are read back."""

OPTIONS = {
    "libx264": {"preset": "ultrafast", "tune": "fastdecode", "threads": "1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
}


def write_media(
    path: Path,
    pictures: Iterable[np.ndarray] | None = None,
    sound: np.ndarray | None = None,
    *,
    fps: int = 25,
    times: Iterable[float] | None = None,
    rate_hz: int = 44100,
    codecs: tuple[str | None, str | None] | None = None,
    rotation: int = 0,
    keyframe_every: int = 12,
) -> Path:
    """Write pictures and sound, interleaved; the ending of ``path`` chooses container and codecs.

    Args:
        path: Where to write; its folder is made.
        pictures: RGB, (H, W, 3) uint8, all of one size; None for a file without pictures.
        sound: (N,) or (N, channels), floats in [-1, 1]; None for a file without sound.
        fps: Pictures per second.
        times: Start of each picture in seconds, for a variable rate.
        rate_hz: Of the sound.
        codecs: Other encoders than those of the ending, ``("libvpx", "vorbis")`` say.
        rotation: Degrees counter-clockwise by which a player has to turn the pictures.
        keyframe_every: Pictures from one key frame to the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    video_codec, audio_codec = codecs or CODECS[path.suffix]
    with av.open(str(path), "w") as file:
        streams = []
        if pictures is not None:
            pictures = iter(pictures)
            first = next(pictures)
            video = file.add_stream(video_codec, rate=fps, options=OPTIONS.get(video_codec, {}))
            video.height, video.width = first.shape[:2]
            video.pix_fmt = "yuv420p" if not (video.width % 2 or video.height % 2) else "yuv444p"
            video.gop_size = keyframe_every
            if times is not None:
                video.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                video.set_display_rotation(rotation)
            unit = Fraction(1, fps) if times is None else Fraction(1, 1000)
            ticks = count() if times is None else (round(1000 * t) for t in times)
            streams.append((video, _picture_frames(first, pictures, ticks, unit)))
        if sound is not None:
            audio = file.add_stream(audio_codec, rate=rate_hz)
            sound = np.atleast_2d(np.asarray(sound, np.float32).T)
            audio.layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            streams.append((audio, _sound_frames(sound, rate_hz, audio.layout.name)))
        _interleave(file, streams)
    return path


def _picture_frames(first, others, ticks, unit):
    for tick, picture in zip(ticks, (p for ps in ([first], others) for p in ps), strict=False):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = tick, unit
        yield frame


def _sound_frames(sound, rate_hz, layout, step=1024):
    for start in range(0, sound.shape[1], step):
        piece = np.ascontiguousarray(sound[:, start : start + step])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
        yield frame


def _interleave(file, streams) -> None:
    """Encode in the order of time."""
    waiting = {stream: (next(frames, None), frames) for stream, frames in streams}
    while any(frame is not None for frame, _ in waiting.values()):
        stream, (frame, frames) = min(
            ((s, w) for s, w in waiting.items() if w[0] is not None),
            key=lambda item: item[1][0].pts * item[1][0].time_base,
        )
        file.mux(stream.encode(frame))
        waiting[stream] = next(frames, None), frames
    for stream in waiting:
        file.mux(stream.encode(None))


def numbered(n: int, *, width: int = 64, height: int = 48) -> Iterable[np.ndarray]:
    """``n`` pictures of 4 x 4 black and white fields: the bits of their number, upper left first.

    The picture's corner tells which way is up: its upper half is red where it is not white, its
    lower half blue.
    """
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    bit = rows[:, None] * 4 + columns
    ground = np.where((rows < 2)[:, None, None], [90, 0, 0], [0, 0, 90])
    for number in range(n):
        white = (number >> bit & 1)[..., None]
        yield np.where(white, 255, ground + np.zeros_like(white)).astype(np.uint8)


def number(picture: np.ndarray) -> int:
    """Read back what :func:`numbered` drew, at any size."""
    height, width = picture.shape[:2]
    rows = (np.arange(4) * height + height // 2) // 4
    columns = (np.arange(4) * width + width // 2) // 4
    white = picture[rows][:, columns, 1] > 128
    return int((white.ravel() << np.arange(16)).sum())


def tone(
    seconds: float, *, rate_hz: int = 44100, pitch_hz: float = 440.0, amplitude: float = 0.5
) -> np.ndarray:
    """A sine, (N,) float32."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (amplitude * np.sin(2 * np.pi * pitch_hz * times)).astype(np.float32)


def bursts(seconds: float, at: Iterable[float], *, rate_hz: int = 44100) -> np.ndarray:
    """Faint noise with a 50 ms tone from each of the given seconds on, (N,) float32."""
    sound = 1e-3 * np.random.default_rng(0).standard_normal(round(seconds * rate_hz))
    for start in at:
        burst = tone(0.05, rate_hz=rate_hz, pitch_hz=1000, amplitude=0.8)
        first = round(start * rate_hz)
        sound[first : first + len(burst)] = burst[: max(0, len(sound) - first)]
    return sound.astype(np.float32)


def talking(path: Path, seconds: float = 1.0, *, amplitude: float = 0.5, **options) -> Path:
    """Numbered pictures and a tone: a whole clip of any container."""
    rate_hz = options.setdefault("rate_hz", 48000 if path.suffix == ".webm" else 44100)
    pictures = numbered(round(seconds * options.get("fps", 25)))
    sound = tone(seconds, rate_hz=rate_hz, amplitude=amplitude)
    return write_media(path, pictures, sound, **options)


def onsets(samples: np.ndarray, rate_hz: int = 22050) -> np.ndarray:
    """Seconds at which bursts begin."""
    loud = np.flatnonzero(np.abs(samples) > 0.15)
    return loud[np.diff(loud, prepend=-rate_hz) > 0.1 * rate_hz] / rate_hz
