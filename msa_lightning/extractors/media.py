"""Decode the frames and the sound of a part of a media file.

FFmpeg's libraries come inside the package ``av``; no ``ffmpeg`` program is needed. Decoding uses
one thread: many clips are worked on side by side, one process per core.

Second 0 of a file is where its first stream begins, for all its streams, so that frames and sound
keep their places beside one another. Containers whose clock counts milliseconds (mkv, webm) place
sound to one of them, the others to one sample of the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, floor, inf
from pathlib import Path
from sys import maxsize
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from msa_lightning.extractors.contract import Span, Unusable

if TYPE_CHECKING:
    from av.container import InputContainer

VERSION = 1
"""Counts up when the same file gives other frames or samples."""

SHORTEST_SOUND_S = 0.1
"""Sound shorter than this, about two windows of 2048 samples at 44.1 kHz, says nothing."""

SILENCE = 1e-4
"""Peak below which sound is silence: -80 dB of full scale, about 3 steps of 16 bits."""

SLOWEST_HZ = 1000
"""No sound has fewer samples per second; a damaged header that says so would fill the memory."""

GAP_S = 0.05, 600.0
"""Sound is missing where the clock jumps ahead by more than the first: less is the clock's
rounding. A jump by more than the second is a fault of the clock."""

RESTART_FRAMES = 2
"""A clock of frames that falls back further has begun anew: files were put end to end."""

LEADS_S = {"video": (0.0, 3.0, 10.0, inf), "audio": (0.5, 5.0, inf)}
"""How long before the wanted second to begin, tried in turn: some containers jump to where no
frame is complete, and sound needs what was decoded before it. ``inf``: at the file's beginning."""

FORMATS = "mov,avi,mpeg,mpegvideo,mpegts,matroska,asf,flv,wav,w64,aiff,au,caf,flac,mp3,ogg,aac"
"""Containers read. FFmpeg knows others that take a text, a picture or a playlist for a video."""

_ROUNDING_S = 1e-6

Kind = Literal["video", "audio"]


def frames(
    span: Span, *, max_frames: int | None = None, rate_hz: float | None = None, max_side: int = 1280
) -> Iterator[tuple[float, float, NDArray[np.uint8]]]:
    """Decode frames one after the other, in constant memory.

    A frame belongs to the span if it begins in it. It keeps the pixels of the file: they are not
    stretched where the file declares them oblong.

    Args:
        span: File and part of it.
        max_frames: Stop after so many.
        rate_hz: Take so many per second, evenly, if there are as many; None takes all.
        max_side: Shrink frames that are wider or higher than so many pixels.

    Yields:
        Start and end in seconds from the start of the span, and the picture in RGB, upright,
        (H, W, 3) uint8, contiguous. A frame ends where the file's next one begins.

    Raises:
        Unusable: As soon as the first frame is asked for: no such file, not decodable, no video
            stream, or no frame begins in the span.
    """
    end_s = inf if span.end_s is None else span.end_s
    taken, due_s = 0, 0.0
    with _explained(span.path):
        for start_s, stop_s, frame in _timed_frames(span.path, span.start_s):
            if taken == max_frames or start_s >= end_s - _ROUNDING_S:
                break
            time_s = max(0.0, start_s - span.start_s)
            if start_s < span.start_s - _ROUNDING_S or time_s < due_s - _ROUNDING_S:
                continue
            if rate_hz is not None:
                due_s = (floor((time_s + _ROUNDING_S) * rate_hz) + 1) / rate_hz
            yield time_s, min(stop_s, end_s) - span.start_s, _picture(frame, max_side)
            taken += 1
    if not taken:
        raise Unusable("too short", f"{span.path.name}: no frame begins in {_range(span)}")


def _timed_frames(path: Path, start_s: float) -> Iterator[tuple[float, float, Any]]:
    """Start and end of each frame in seconds of the file, strictly increasing."""
    late_s = 0.0
    waiting: tuple[float, float, Any] | None = None
    for time_s, length_s, frame in _decode(path, "video", start_s):
        begin_s = time_s + late_s
        if waiting:
            if waiting[0] - begin_s > RESTART_FRAMES * length_s:
                late_s += waiting[0] + waiting[1] - begin_s
                begin_s = waiting[0] + waiting[1]
            if begin_s > waiting[0]:
                yield waiting[0], begin_s, waiting[2]
            else:
                begin_s = waiting[0]  # the clock is put right: one frame takes another's place
        waiting = begin_s, length_s, frame
    if waiting:
        yield waiting[0], waiting[0] + waiting[1], waiting[2]


def _picture(frame: Any, max_side: int) -> NDArray[np.uint8]:
    scale = min(1.0, max_side / max(frame.width, frame.height))
    image = frame.to_ndarray(
        format="rgb24",
        width=max(1, round(frame.width * scale)),
        height=max(1, round(frame.height * scale)),
        interpolation="AREA" if scale < 1 else None,
        threads=1,
    )
    # Contiguous: FFmpeg pads the rows of most widths, and not every reader looks at the strides.
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def sound(span: Span, *, rate_hz: int = 22050, max_s: float | None = None) -> NDArray[np.float32]:
    """Decode sound into one channel, the mean of the file's.

    The first sample is the one at the start of the span. Where the file's sound begins later or
    has a hole there are zeros; where it ends earlier the result is shorter than the span.

    Args:
        span: File and part of it.
        rate_hz: Samples per second of the result.
        max_s: Decode no more than so many seconds.

    Returns:
        Samples in [-1, 1], (N,) float32.

    Raises:
        Unusable: No such file, not decodable, no audio stream, shorter than ``SHORTEST_SOUND_S``,
            or silent.
    """
    from av import AudioFrame, AudioResampler

    length_s = inf if span.end_s is None else span.end_s - span.start_s
    length_s = length_s if max_s is None else min(length_s, max_s)
    resampler = AudioResampler(format="flt", layout="mono", rate=rate_hz)
    resampled: list[AudioFrame] = []
    heard_s = 0.0
    with _explained(span.path):
        for rate, gap, samples in _samples(span.path, span.start_s, length_s):
            padded = np.pad(samples, (gap, 0)) if gap else samples
            mono = AudioFrame.from_ndarray(padded[None], "flt", "mono")
            mono.sample_rate = rate
            resampled += resampler.resample(mono)
            heard_s += len(samples) / rate
        if heard_s and rate != rate_hz:
            resampled += resampler.resample(None)
    if heard_s < SHORTEST_SOUND_S:
        raise Unusable("too short", f"{span.path.name}: {heard_s:.3f} s of sound in {_range(span)}")
    samples = np.concatenate([frame.to_ndarray()[0] for frame in resampled])
    samples = samples[: round(min(length_s * rate_hz, len(samples)))]
    peak = max(samples.max(), -samples.min())
    if peak < SILENCE:
        raise Unusable("silent", f"{span.path.name}: peak {peak:.1e} in {_range(span)}")
    return np.clip(samples, -1, 1, out=samples)


def _samples(
    path: Path, start_s: float, length_s: float
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Rate of the file, number of samples missing, and the samples that follow, (N,).

    Pieces are joined end to end; the clock counts only where it jumps, for it may be coarse.
    """
    rate = done = position = claimed = 0  # the last three in samples from the start of the span
    wanted = maxsize
    for time_s, _, frame in _decode(path, "audio", start_s):
        at = round((time_s - start_s) * frame.sample_rate)
        if not rate:
            rate = frame.sample_rate
            if rate < SLOWEST_HZ:
                raise Unusable("not decodable", f"{path.name}: sound of {rate} Hz")
            position = claimed = at if at < GAP_S[1] * rate else 0
            if length_s < inf:
                wanted = ceil(length_s * rate) + 1  # one more: resampling may round up
        elif rate != frame.sample_rate:
            raise Unusable("not decodable", f"{path.name}: its sampling rate changes")
        elif GAP_S[0] * rate < at - claimed < GAP_S[1] * rate:
            position += at - claimed
        claimed = at + frame.samples
        begin = min(max(position, done), wanted)
        end = max(begin, min(position + frame.samples, wanted))
        if end > done:
            yield rate, begin - done, _mono(frame)[begin - position : end - position]
            done = end
        position += frame.samples
        if done == wanted:
            return


def _mono(frame: Any) -> NDArray[np.float32]:
    """Mean of the channels, (N,)."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "f":
        samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    elif samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    else:
        samples = samples / np.float32(-np.iinfo(samples.dtype).min)
    mean: NDArray[np.float32] = samples.mean(axis=0, dtype=np.float32)
    return mean


def duration_s(path: Path) -> float | None:
    """Length of a file as it declares it, None if it does not.

    Raises:
        Unusable: No such file, or not decodable.
    """
    with _open(path) as container:
        return None if container.duration is None else container.duration / 1e6


def streams(path: Path) -> tuple[bool, bool]:
    """Whether a file has frames, and whether it has sound; a cover picture is not a frame.

    Raises:
        Unusable: No such file, or not decodable.
    """
    with _open(path) as container:
        return bool(_streams(container, "video")), bool(_streams(container, "audio"))


def _decode(path: Path, kind: Kind, start_s: float) -> Iterator[tuple[float, float, Any]]:
    """Begin and length in seconds of the file of each frame, from one that covers ``start_s`` on.

    What lies far before is not read, nor, as long as no more is asked for, what lies after.
    """
    for lead_s in LEADS_S[kind]:
        if lead_s >= start_s and lead_s < inf:
            continue
        with _open(path) as container:
            if kind == "video" and lead_s == 0 and container.format.name == "mpeg":
                continue  # just after a jump FFmpeg's times are a frame late where frames are small
            decoded = _decode_from(container, _stream(container, kind, path), start_s - lead_s)
            first = next(decoded, None)
            if lead_s < inf and (first is None or first[0] > start_s):
                continue  # it jumped too far
            if first is None:
                raise Unusable("not decodable", f"{path.name}: no {kind} frame is whole")
            yield first
            yield from decoded
            return


def _decode_from(
    container: "InputContainer", stream: Any, start_s: float
) -> Iterator[tuple[float, float, Any]]:
    """Decode from a key frame before ``start_s`` on, which is ``-inf`` for the first frame."""
    from av import FFmpegError

    origin_s = max(0, container.start_time or 0) / 1e6  # negative: samples that are cut off
    average_s = 1 / float(getattr(stream, "average_rate", None) or 25)
    stream.codec_context.thread_count = 1
    begun = start_s == -inf
    if not begun:
        try:
            # By the container's own choice of stream: its index often has no other.
            container.seek(floor((start_s + origin_s) * 1e6))
        except FFmpegError:
            return
    time_s = 0.0
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except FFmpegError:
            continue  # a damaged packet costs what is in it
        for frame in decoded:
            begun = begun or (frame.key_frame and frame.pts is not None)
            if not begun:
                continue
            if frame.pts is not None:
                time_s = float(frame.pts * frame.time_base) - origin_s
            if stream.type == "audio":
                length_s = frame.samples / frame.sample_rate
            else:
                length_s = float((frame.duration or 0) * frame.time_base) or average_s
            yield time_s, length_s, frame
            time_s += length_s


def _stream(container: "InputContainer", kind: Kind, path: Path) -> Any:
    found = _streams(container, kind)
    if not found:
        raise Unusable("no video stream" if kind == "video" else "no audio stream", path.name)
    if found[0].codec_context is None:
        raise Unusable("not decodable", f"{path.name}: FFmpeg has no decoder for its {kind}")
    return found[0]


def _streams(container: "InputContainer", kind: Kind) -> list[Any]:
    from av.stream import Disposition

    cover = Disposition.attached_pic | Disposition.timed_thumbnails
    return [s for s in container.streams if s.type == kind and not s.disposition & cover]


@contextmanager
def _open(path: Path) -> Iterator["InputContainer"]:
    import av

    try:
        if not path.is_file():
            raise Unusable("no file", f"{path}: {'a folder' if path.is_dir() else 'not found'}")
        with path.open("rb") as file:
            if not file.read(1):
                raise Unusable("empty file", str(path))
    except OSError as error:
        raise Unusable("no file", f"{path}: {error.strerror}") from error
    with (
        _explained(path),
        av.open(
            f"file:{path}",  # so that a colon in the name does not make it an address
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        ) as container,
    ):
        if not container.streams:
            raise Unusable("not decodable", f"{path.name}: no stream in it")
        yield container


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what FFmpeg says as the reason of a clip."""
    from av import FFmpegError

    try:
        yield
    except FFmpegError as error:
        raise Unusable("not decodable", f"{path.name}: {error.strerror}") from error


def _range(span: Span) -> str:
    return f"{span.start_s:g} to {'the end' if span.end_s is None else f'{span.end_s:g} s'}"
