import os
import struct
from itertools import pairwise
from math import inf
from pathlib import Path

import av
import numpy as np
import pytest

from msa_lightning.extractors import media
from msa_lightning.extractors.contract import Span, Unusable
from msa_lightning.extractors.media import duration_s, frames, sound, streams
from tests.data.make_data import real_data
from tests.data.make_media import bursts, number, numbered, talking, tone, write_media

VIDEOS = {
    "mp4": (".mp4", None),
    "mov": (".mov", None),
    "mkv": (".mkv", None),
    "webm": (".webm", None),
    "webm vp8": (".webm", ("libvpx", "libopus")),
    "avi": (".avi", None),
    "mpg": (".mpg", None),
    "mpg mpeg2": (".mpg", ("mpeg2video", "mp2")),
}
WITH_MP3 = {  # which is delayed there, by what these containers do not tell
    "avi mp3": (".avi", ("mpeg4", "libmp3lame")),
    "mkv mp3": (".mkv", ("libx264", "libmp3lame")),
}
SOUNDS = {
    "wav 8 bits": (".wav", "pcm_u8", 16000),
    "wav 16 bits": (".wav", "pcm_s16le", 44100),
    "wav 24 bits": (".wav", "pcm_s24le", 48000),
    "wav float": (".wav", "pcm_f32le", 8000),
    "flac": (".flac", "flac", 96000),
}
LOSSY = {"mp3": (".mp3", "libmp3lame", 44100), "ogg": (".ogg", "libopus", 48000)}


def refusal(take, path: Path, *span) -> str:
    """Why a clip is unusable; the detail names the file."""
    with pytest.raises(Unusable) as caught:
        list(take(Span(path, *span)))
    assert path.name in caught.value.detail
    return caught.value.reason


def onsets(samples: np.ndarray, rate_hz: int = 22050) -> np.ndarray:
    """Seconds at which bursts begin."""
    loud = np.flatnonzero(np.abs(samples) > 0.15)
    return loud[np.diff(loud, prepend=-rate_hz) > 0.1 * rate_hz] / rate_hz


def spy_on_decoding(monkeypatch) -> list[float]:
    """Times of all frames that are decoded from here on."""
    times: list[float] = []
    decode = media._decode_from

    def spy(*arguments):
        for frame in decode(*arguments):
            times.append(frame[0])
            yield frame

    monkeypatch.setattr(media, "_decode_from", spy)
    return times


@pytest.mark.parametrize(("suffix", "codecs"), VIDEOS.values(), ids=VIDEOS)
def test_decodes_the_frames_of_every_container(tmp_path, suffix, codecs):
    path = talking(tmp_path / f"a{suffix}", 1.0, codecs=codecs)
    assert streams(path) == (True, True)
    assert duration_s(path) == pytest.approx(1.0, abs=0.06)
    found = list(frames(Span(path)))
    assert [number(picture) for _, _, picture in found] == list(range(25))
    for start_s, end_s, picture in found:
        assert picture.shape == (48, 64, 3)
        assert picture.dtype == np.uint8
        assert picture.flags.c_contiguous
        assert end_s - start_s == pytest.approx(0.04, abs=0.002)
    starts = [start_s for start_s, _, _ in found]
    np.testing.assert_allclose(starts, starts[0] + np.arange(25) / 25, atol=1.1e-3)
    assert starts[0] < 0.02  # mp2 begins before the frames: the delay of its encoder


@pytest.mark.parametrize(("suffix", "codecs"), (VIDEOS | WITH_MP3).values(), ids=VIDEOS | WITH_MP3)
def test_decodes_the_sound_of_every_container(tmp_path, suffix, codecs):
    samples = sound(Span(talking(tmp_path / f"a{suffix}", 1.0, codecs=codecs)))
    assert samples.dtype == np.float32
    assert len(samples) / 22050 == pytest.approx(1.0, abs=0.06)
    middle = samples[5000:16000]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.03)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * 22050 / len(middle) == pytest.approx(440, abs=3)


@pytest.mark.parametrize(("suffix", "codecs"), VIDEOS.values(), ids=VIDEOS)
def test_frames_and_sound_share_one_clock(tmp_path, suffix, codecs):
    rate_hz = 48000 if suffix == ".webm" else 44100
    pictures, clicks = numbered(50), bursts(2, [0.6, 1.4], rate_hz=rate_hz)
    path = write_media(tmp_path / f"a{suffix}", pictures, clicks, rate_hz=rate_hz, codecs=codecs)
    starts = {number(picture): start_s for start_s, _, picture in frames(Span(path))}
    np.testing.assert_allclose(onsets(sound(Span(path))), [starts[15], starts[35]], atol=0.003)


@pytest.mark.parametrize(("suffix", "codec", "rate_hz"), SOUNDS.values(), ids=SOUNDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_at_its_own_rate_is_what_is_in_the_file(tmp_path, suffix, codec, rate_hz, channels):
    soundfile = pytest.importorskip("soundfile")
    noise = np.random.default_rng(0).uniform(-1, 1, (rate_hz, channels))
    path = write_media(tmp_path / f"a{suffix}", None, noise, rate_hz=rate_hz, codecs=(None, codec))
    expected, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == rate_hz
    np.testing.assert_allclose(
        sound(Span(path), rate_hz=rate_hz), expected.mean(axis=1), rtol=0, atol=1e-7
    )
    span = Span(path, 0.25, 0.75)
    np.testing.assert_allclose(
        sound(span, rate_hz=rate_hz),
        expected[rate_hz // 4 : rate_hz * 3 // 4].mean(axis=1),
        rtol=0,
        atol=1e-7,
    )


@pytest.mark.parametrize(("suffix", "codec", "rate_hz"), (SOUNDS | LOSSY).values())
def test_resampled_sound_is_the_same_tone(tmp_path, suffix, codec, rate_hz):
    wave = tone(1.0, rate_hz=rate_hz)
    path = write_media(tmp_path / f"a{suffix}", None, wave, rate_hz=rate_hz, codecs=(None, codec))
    samples = sound(Span(path, 0.0, 1.0))
    assert len(samples) == 22050
    error = (samples - tone(1.0, rate_hz=22050))[500:-500]
    assert np.abs(error).max() < (0.03 if codec == "libmp3lame" else 0.01)


def test_surround_sound_is_the_plain_mean(tmp_path):
    levels = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    path = write_media(tmp_path / "a.wav", None, np.tile(levels, (44100, 1)))
    np.testing.assert_allclose(sound(Span(path), rate_hz=44100), levels.mean(), atol=1e-4)


def test_sound_beyond_full_scale_or_not_a_number_stays_within_it(tmp_path):
    wave = tone(1.0, amplitude=3.0)
    wave[1000:1010], wave[2000] = np.nan, np.inf
    path = write_media(tmp_path / "a.wav", None, wave, codecs=(None, "pcm_f32le"))
    for rate_hz in (44100, 22050):
        samples = sound(Span(path), rate_hz=rate_hz)
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() == 1


@pytest.mark.parametrize("length_s", [0.1, 0.3333, 0.98765, 1.0])
@pytest.mark.parametrize("file_hz", [8000, 44100, 48000])
def test_sound_is_exactly_as_long_as_its_span(tmp_path, length_s, file_hz):
    path = write_media(tmp_path / "a.wav", None, tone(3, rate_hz=file_hz), rate_hz=file_hz)
    for rate_hz in (16000, 22050, file_hz):
        span = Span(path, 0.7654, 0.7654 + length_s)
        assert len(sound(span, rate_hz=rate_hz)) == round(length_s * rate_hz)
        begun = Span(path, 0.7654)
        assert len(sound(begun, rate_hz=rate_hz, max_s=length_s)) == round(length_s * rate_hz)


def test_sound_that_ends_inside_the_span_is_shorter(tmp_path):
    path = write_media(tmp_path / "a.wav", None, tone(1.0))
    assert len(sound(Span(path, 0.5, 2.0))) == 11025


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_stream_that_begins_late_keeps_its_place(tmp_path, suffix):
    times = 0.5 + np.arange(25) / 25
    path = write_media(tmp_path / f"v{suffix}", numbered(25), tone(2.0), times=times)
    starts = [start_s for start_s, _, _ in frames(Span(path))]
    np.testing.assert_allclose(starts, times, atol=1.1e-3)
    assert [number(p) for _, _, p in frames(Span(path, 0.6, 0.7))] == [3, 4]

    path = cut_out(tmp_path / f"a{suffix}", lambda second: second < 0.5)
    samples = sound(Span(path))
    assert not samples[: int(0.45 * 22050)].any()
    np.testing.assert_allclose(onsets(samples), [0.6, 1.2, 1.8], atol=2e-3)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_hole_in_the_sound_does_not_shift_what_follows(tmp_path, suffix):
    path = cut_out(tmp_path / f"a{suffix}", lambda second: 0.8 < second < 1.1)
    samples = sound(Span(path))
    np.testing.assert_allclose(onsets(samples), [0.6, 1.2, 1.8], atol=2e-3)
    assert not samples[int(0.9 * 22050) : int(1.05 * 22050)].any()


def cut_out(path: Path, where) -> Path:
    """A clip of 2.4 s with bursts at 0.6, 1.2 and 1.8 s, but without some packets of its sound."""
    whole = path.with_stem("whole")
    write_media(whole, numbered(60), bursts(2.4, [0.6, 1.2, 1.8]))
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        copies = [target.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio" and where(packet.pts * packet.time_base):
                continue
            packet.stream = copies[packet.stream.index]
            target.mux(packet)
    return path


@pytest.mark.parametrize("width", [33, 65, 90, 360])
def test_rows_of_any_width_are_contiguous(tmp_path, width):
    path = write_media(tmp_path / "a.mp4", numbered(3, width=width, height=49))
    for index, (_, _, picture) in enumerate(frames(Span(path))):
        assert picture.shape == (49, width, 3)
        assert picture.strides == (3 * width, 3, 1)
        assert number(picture) == index
        assert picture[:20, :, 0].mean() > picture[:20, :, 2].mean()  # red above, and not BGR


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_frames_are_turned_upright(tmp_path, rotation):
    stored = (np.rot90(picture, -rotation // 90) for picture in numbered(12))
    path = write_media(tmp_path / "a.mp4", stored, rotation=rotation)
    for index, (_, _, picture) in enumerate(frames(Span(path))):
        assert picture.shape == (48, 64, 3)
        assert picture.flags.c_contiguous
        assert number(picture) == index


def test_a_phone_held_upright_gives_upright_frames(tmp_path):
    stored = (np.rot90(picture) for picture in numbered(12, width=48, height=64))
    path = write_media(tmp_path / "a.mov", stored)
    content = path.read_bytes()
    one, last = 0x10000, 0x40000000
    level = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, last)
    upright = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, last)  # as phones write it
    where = content.index(level, content.index(b"tkhd"))
    path.write_bytes(content[:where] + upright + content[where + len(level) :])
    found = [picture for _, _, picture in frames(Span(path))]
    assert found[0].shape == (64, 48, 3)
    assert [number(picture) for picture in found] == list(range(12))


@pytest.mark.parametrize(
    ("size", "shrunk"), [((3840, 2160), (720, 1280)), ((100, 2600), (1280, 49))]
)
def test_large_frames_are_shrunk_and_keep_their_shape(tmp_path, size, shrunk):
    path = write_media(tmp_path / "a.mp4", numbered(2, width=size[0], height=size[1]))
    for index, (_, _, picture) in enumerate(frames(Span(path))):
        assert picture.shape == (*shrunk, 3)
        assert number(picture) == index
    assert next(frames(Span(path), max_side=64))[2].shape[:2] == tuple(
        round(side * 64 / max(size)) for side in size[::-1]
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_follow_a_variable_rate(tmp_path, suffix):
    times = [0.0, 0.02, 0.1, 0.5, 0.51, 0.9, 1.5]
    path = write_media(tmp_path / f"a{suffix}", numbered(7), times=times)
    found = list(frames(Span(path)))
    np.testing.assert_allclose([start_s for start_s, _, _ in found], times, atol=1.1e-3)
    for (_, end_s, _), (start_s, _, _) in pairwise(found):
        assert end_s == start_s
    assert [number(picture) for _, _, picture in found] == list(range(7))
    assert [number(p) for _, _, p in frames(Span(path, 0.1, 0.9))] == [2, 3, 4]
    assert [number(p) for _, _, p in frames(Span(path), rate_hz=4)] == [0, 3, 5, 6]


def test_a_clock_that_begins_anew_goes_on(tmp_path):
    path = talking(tmp_path / "a.mpg", 0.8)
    path.write_bytes(path.read_bytes() * 2)
    found = list(frames(Span(path)))
    assert [number(picture) for _, _, picture in found] == [*range(20), *range(20)]
    np.testing.assert_allclose(np.diff([f[0] for f in found]), 0.04, atol=1e-3)
    assert len(sound(Span(path))) / 22050 == pytest.approx(1.6, abs=0.1)


def test_a_clock_that_is_put_right_never_stands_still(tmp_path, monkeypatch):
    path = write_media(tmp_path / "a.mpg", numbered(600), tone(24), keyframe_every=25)
    monkeypatch.setitem(media.LEADS_S, "video", (0.01, inf))  # so little that it is wrong at first
    repaired = 0
    for start_s in (5.5, 10.5, 15.5, 20.5):
        found = [(start, number(picture)) for start, _, picture in frames(Span(path, start_s))]
        starts, numbers = np.array(found).T
        assert (np.diff(starts) > 0).all()
        assert (np.diff(numbers) > 0).all()
        repaired += (np.diff(numbers) > 1).sum()
    assert repaired


@pytest.mark.parametrize(
    ("suffix", "codecs"), [(".mp4", None), (".mpg", None), (".ts", ("mpeg4", "aac"))]
)
def test_goes_back_further_where_key_frames_are_rare(tmp_path, suffix, codecs):
    path = tmp_path / f"a{suffix}"
    write_media(path, numbered(600), tone(24), keyframe_every=300, codecs=codecs)
    for first in (5, 250, 290, 310, 590):
        numbers = [number(p) for _, _, p in frames(Span(path, first / 25), max_frames=8)]
        assert numbers[0] - first in (0, -1)
        assert numbers == list(range(numbers[0], numbers[0] + 8))


def test_a_span_holds_the_frames_that_begin_in_it(tmp_path):
    path = talking(tmp_path / "a.mp4", 2.0)
    for first, stop in [(0, 1), (3, 29), (12, 13), (13, 50), (49, 50)]:
        found = list(frames(Span(path, first / 25, stop / 25)))
        assert [number(picture) for _, _, picture in found] == list(range(first, stop))
        starts = [start_s for start_s, _, _ in found]
        np.testing.assert_allclose(starts, np.arange(stop - first) / 25, atol=1e-9)
        assert min(starts) >= 0
        assert found[-1][1] == pytest.approx((stop - first) / 25)
    assert [number(picture) for _, _, picture in frames(Span(path, 0.1, 0.17))] == [3, 4]
    rounded = list(frames(Span(path, 0.12 + 1e-8, 0.2 + 1e-8)))
    assert [number(picture) for _, _, picture in rounded] == [3, 4]
    assert rounded[0][0] == 0
    assert next(frames(Span(path, 0.1, 0.13)))[:2] == pytest.approx((0.02, 0.03))


@pytest.mark.parametrize(
    ("rate_hz", "numbers"),
    [
        (5, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]),
        (10, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38, 40, 43, 45, 48]),
        (1, [0, 25]),
        (25, list(range(50))),
        (60, list(range(50))),
        (0.5, [0]),
    ],
)
def test_samples_frames_evenly_and_converts_no_others(tmp_path, monkeypatch, rate_hz, numbers):
    path = talking(tmp_path / "a.mp4", 2.0)
    converted = []
    convert = media._picture
    monkeypatch.setattr(media, "_picture", lambda *a: converted.append(0) or convert(*a))
    assert [number(p) for _, _, p in frames(Span(path), rate_hz=rate_hz)] == numbers
    assert len(converted) == len(numbers)


def test_stops_at_the_largest_number_of_frames(tmp_path, monkeypatch):
    path = talking(tmp_path / "a.mp4", 2.0)
    decoded = spy_on_decoding(monkeypatch)
    found = frames(Span(path, 1.0), max_frames=3, rate_hz=5)
    assert [number(picture) for _, _, picture in found] == [25, 30, 35]
    assert max(decoded) < 1.5


@pytest.fixture(scope="module", params=[".mp4", ".mkv", ".webm", ".avi", ".mpg"])
def two_minutes(request, tmp_path_factory) -> Path:
    """25 frames and a key frame a second; bursts at all odd seconds."""
    clicks = bursts(120, range(1, 120, 2), rate_hz=48000)
    path = tmp_path_factory.mktemp("long") / f"long{request.param}"
    options = {"keyframe_every": 25, "rate_hz": 48000}
    return write_media(path, numbered(3000), clicks, **options)


@pytest.mark.parametrize("start_s", [0.3, 60.5, 117.5])
def test_reads_only_the_asked_part_of_a_long_video(two_minutes, monkeypatch, start_s):
    decoded = spy_on_decoding(monkeypatch)
    read_before = bytes_read()
    span = Span(two_minutes, start_s, start_s + 2)

    offset_s = 0.010022 if two_minutes.suffix == ".mpg" else 0.0  # the delay of mp2
    found = list(frames(span))
    starts = np.arange(3000) / 25 + offset_s
    expected = np.flatnonzero((starts >= span.start_s) & (starts < span.end_s))
    assert [number(picture) for _, _, picture in found] == expected.tolist()
    np.testing.assert_allclose([f[0] for f in found], starts[expected] - start_s, atol=1e-3)
    assert min(decoded) > start_s - 6
    assert max(decoded) < start_s + 2.1
    assert len(decoded) < 150

    decoded.clear()
    samples = sound(span)
    assert len(samples) == 2 * 22050
    inside = [second - start_s for second in range(1, 120, 2) if 0 <= second - start_s < 2]
    np.testing.assert_allclose(onsets(samples), inside, atol=0.012)
    assert min(decoded) > start_s - 6
    assert max(decoded) < start_s + 2.2
    assert bytes_read() - read_before < 3.5e6  # 2.5e6 is to find the streams of mpg


def bytes_read() -> int:
    """By this process so far; 0 where the system does not say."""
    counters = Path("/proc/self/io")
    return int(counters.read_text().split()[1]) if counters.exists() else 0


def test_cut_sound_is_the_sound_of_the_whole_file_there(two_minutes):
    whole = sound(Span(two_minutes, 58.0, 64.0))
    part = sound(Span(two_minutes, 61.02, 63.04))  # from burst to burst
    first = round(3.02 * 22050)
    shifts = range(-45, 46)
    errors = [np.abs(whole[first + s :][: len(part)] - part)[40:-40].max() for s in shifts]
    coarse = two_minutes.suffix in (".mkv", ".webm")
    assert abs(shifts[int(np.argmin(errors))]) <= (23 if coarse else 1)  # 1 ms, or 1 sample
    assert min(errors) < (0.15 if coarse else 0.03)


@pytest.mark.parametrize(("suffix", "codec"), [(".m4a", "aac"), (".mp3", "libmp3lame")])
def test_cut_sound_is_whole_from_its_first_sample(tmp_path, suffix, codec):
    wave = bursts(20, np.arange(1, 20, 0.1), rate_hz=48000)
    path = tmp_path / f"a{suffix}"
    write_media(path, None, wave, rate_hz=48000, codecs=(None, codec))
    whole = sound(Span(path), rate_hz=48000)
    for first in (512000, 520000, 528000):
        span = Span(path, first / 48000, first / 48000 + 0.5)
        difference = sound(span, rate_hz=48000) - whole[first : first + 24000]
        assert np.abs(difference).max() < 0.05  # aac draws its noise anew


def test_decodes_no_further_than_frames_are_taken(tmp_path, monkeypatch):
    path = talking(tmp_path / "a.mp4", 4.0)
    decoded = spy_on_decoding(monkeypatch)
    iterator = frames(Span(path))
    for _ in range(5):
        next(iterator)
    assert len(decoded) < 10
    iterator.close()


@pytest.mark.parametrize("take", [frames, sound])
def test_says_when_there_is_no_file(tmp_path, take):
    assert refusal(take, tmp_path / "absent.mp4") == "no file"
    (tmp_path / "folder.mp4").mkdir()
    assert refusal(take, tmp_path / "folder.mp4") == "no file"
    assert refusal(take, tmp_path / ("long" * 100 + ".mp4")) == "no file"


@pytest.mark.parametrize("take", [frames, sound])
def test_says_when_a_file_may_not_be_read(tmp_path, take):
    path = talking(tmp_path / "a.mp4")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert refusal(take, path) == "no file"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".mpg", ".wav", ".flac"])
@pytest.mark.parametrize("take", [frames, sound])
def test_says_when_a_file_is_empty_or_garbage(tmp_path, take, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    assert refusal(take, path) == "empty file"
    for seed in range(5):
        path.write_bytes(np.random.default_rng(seed).bytes(20_000))
        missing = "no video stream" if take is frames else "no audio stream"
        assert refusal(take, path) in ("not decodable", missing)
    path.write_bytes(b"\0" * 20_000)
    assert refusal(take, path) in ("not decodable", missing)


@pytest.mark.parametrize("content", ["#EXTM3U\n#EXTINF:1,\n", "ffconcat version 1.0\nfile "])
def test_does_not_follow_a_playlist(tmp_path, content):
    talking(tmp_path / "other.mp4")
    path = tmp_path / "a.mp4"
    path.write_text(f"{content}other.mp4\n")
    assert refusal(frames, path) == "not decodable"


def test_a_text_is_not_a_video(tmp_path):
    path = tmp_path / "transcript.txt"
    path.write_text("it was a really good film\n" * 100)
    assert refusal(frames, path) == "not decodable"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".mpg"])
def test_a_truncated_file_gives_what_is_whole(tmp_path, suffix):
    path = talking(tmp_path / f"a{suffix}", 4.0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    if suffix == ".mp4":  # its table of contents is at the end
        assert refusal(frames, path) == refusal(sound, path) == "not decodable"
        return
    numbers = [number(picture) for _, _, picture in frames(Span(path))]
    assert 25 < len(numbers) < 90
    assert numbers[:-1] == list(range(len(numbers) - 1))  # the last one may be cut
    assert 1 < len(sound(Span(path))) / 22050 < 3.6


def test_says_when_a_truncated_file_has_no_frame_left(tmp_path):
    path = talking(tmp_path / "a.webm", 4.0)
    path.write_bytes(path.read_bytes()[:600])
    assert refusal(frames, path) == refusal(sound, path) == "not decodable"


def test_a_damaged_place_costs_only_itself(tmp_path):
    path = talking(tmp_path / "a.mpg", 4.0)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    numbers = [number(picture) for _, _, picture in frames(Span(path))]
    assert set(range(30)) | set(range(70, 100)) <= set(numbers)
    assert len(sound(Span(path))) / 22050 == pytest.approx(4, abs=0.3)


def test_says_which_stream_is_missing(tmp_path):
    mute = write_media(tmp_path / "mute.mp4", numbered(25))
    blind = write_media(tmp_path / "blind.mp4", None, tone(1.0))
    assert streams(mute) == (True, False)
    assert streams(blind) == (False, True)
    assert refusal(sound, mute) == "no audio stream"
    assert refusal(frames, blind) == "no video stream"
    assert len(list(frames(Span(mute)))) == 25
    assert len(sound(Span(blind))) > 22000


def test_says_when_the_rate_of_sound_changes(tmp_path):
    first = write_media(tmp_path / "a.mp3", None, tone(1.0))
    second = write_media(tmp_path / "b.mp3", None, tone(1.0, rate_hz=32000), rate_hz=32000)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert refusal(sound, first) == "not decodable"


def test_says_when_the_rate_of_sound_makes_no_sense(tmp_path):
    path = write_media(tmp_path / "a.wav", None, tone(10, rate_hz=100), rate_hz=100)
    assert refusal(sound, path) == "not decodable"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to count threads")
def test_decodes_in_one_thread(tmp_path):
    path = write_media(tmp_path / "a.mp4", numbered(4, width=1920, height=1080), tone(0.2))
    before = len(list(Path("/proc/self/task").iterdir()))
    for _ in frames(Span(path)):
        assert len(list(Path("/proc/self/task").iterdir())) == before


def test_says_when_no_decoder_is_there(tmp_path):
    path = talking(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert refusal(frames, path) == "not decodable"
    assert len(sound(Span(path))) > 22000


@pytest.mark.parametrize("suffix", [".mp3", ".mp4"])
def test_a_cover_picture_is_no_video(tmp_path, suffix):
    plain = write_media(tmp_path / f"plain{suffix}", None, tone(1.0))
    path = tmp_path / f"covered{suffix}"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        audio = target.add_stream_from_template(source.streams.audio[0])
        cover = target.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(next(iter(numbered(1))), format="rgb24")
        target.mux(cover.encode(picture))
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = audio
                target.mux(packet)
    with av.open(str(path)) as file:
        assert len(file.streams.video) == 1
    assert streams(path) == (False, True)
    assert refusal(frames, path) == "no video stream"
    assert len(sound(Span(path))) > 22000


def test_says_when_sound_is_silent(tmp_path):
    for amplitude in (0.0, 5e-5):
        path = write_media(
            tmp_path / "a.wav",
            None,
            tone(1.0, amplitude=amplitude),
            codecs=(None, "pcm_f32le"),
        )
        assert refusal(sound, path) == "silent"
    path = talking(tmp_path / "b.mp4", amplitude=0.0)
    assert refusal(sound, path) == "silent"
    assert len(list(frames(Span(path)))) == 25
    faint = write_media(tmp_path / "c.wav", None, tone(1.0, amplitude=1e-3))
    assert len(sound(Span(faint))) == 22050
    part = write_media(tmp_path / "d.wav", None, np.concatenate([np.zeros(44100), tone(1.0)]))
    assert refusal(sound, part, 0, 0.9) == "silent"
    assert len(sound(Span(part, 0.5, 1.5))) == 22050


def test_says_when_a_span_is_too_short(tmp_path):
    short = write_media(tmp_path / "a.wav", None, tone(0.05))
    assert refusal(sound, short) == "too short"
    path = talking(tmp_path / "a.mp4", 1.0)
    for span in [(0.5, 0.55), (0.5, 0.5), (0.6, 0.5), (5.0, 6.0), (1.5, None), (0.95, 9.0)]:
        assert refusal(sound, path, *span) == "too short"
    for span in [(0.41, 0.43), (0.4, 0.4), (0.6, 0.5), (5.0, 6.0), (1.5, None)]:
        assert refusal(frames, path, *span) == "too short"
    assert len(list(frames(Span(path, 0.5, 0.55)))) == 1


@pytest.mark.parametrize("name", ["a b.mp4", "a:b.mp4", "http:x.mp4", "[1],%03d=é.mp4", "-a.mp4"])
def test_any_file_name_will_do(tmp_path, monkeypatch, name):
    plain = talking(tmp_path / "plain.mp4")
    monkeypatch.chdir(tmp_path)
    path = plain.rename(name)
    assert len(list(frames(Span(path)))) == 25
    assert len(sound(Span(path))) > 22000


def test_metadata_in_any_encoding_will_do(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "Cafe noir"
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in numbered(5):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"Cafe", b"Caf\xe9"))
    assert len(list(frames(Span(path)))) == 5


def test_prints_nothing(tmp_path, capfd):
    path = talking(tmp_path / "a.mpg", 2.0)
    content = bytearray(path.read_bytes())
    content[30000:33000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    list(frames(Span(path)))
    sound(Span(path))
    path.write_bytes(content[::-1])
    refusal(frames, path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.realdata
def test_reads_grid():
    paths = sorted((real_data("grid") / "video").glob("*.mpg"))
    assert paths
    for path in paths:
        found = [(start_s, end_s, p.shape) for start_s, end_s, p in frames(Span(path))]
        np.testing.assert_allclose([f[0] for f in found], np.arange(75) / 25, atol=1e-6)
        assert {f[2] for f in found} == {(288, 360, 3)}
        assert len(sound(Span(path), max_s=3)) / 22050 == pytest.approx(3, abs=0.06)


@pytest.mark.realdata
def test_reads_mosi():
    folder = real_data("mosi") / "raw_sample"
    for path in folder.glob("*.mp4"):
        found = [picture for _, _, picture in frames(Span(path), rate_hz=5)]
        seconds = duration_s(path)
        assert len(found) == pytest.approx(5 * seconds, abs=1)
        assert len(sound(Span(path))) / 22050 == pytest.approx(seconds, abs=0.1)


@pytest.mark.realdata
@pytest.mark.parametrize(("corpus", "pattern"), [("mosi", "**/*.wav"), ("ravdess", "**/*.flac")])
def test_reads_the_samples_that_soundfile_reads(corpus, pattern):
    soundfile = pytest.importorskip("soundfile")
    path = sorted(real_data(corpus).glob(pattern))[0]
    expected, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    found = sound(Span(path), rate_hz=rate_hz)
    np.testing.assert_allclose(found, expected.mean(axis=1), rtol=0, atol=1e-7)
