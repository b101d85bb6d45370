import struct
from itertools import pairwise
from math import inf
from pathlib import Path

import numpy as np
import pytest

from msa_lightning.extractors import media
from msa_lightning.extractors.contract import Span
from msa_lightning.extractors.media import duration_s, frames, sound, streams
from tests.data.make_data import real_data
from tests.data.make_media import (
    VIDEOS,
    bursts,
    number,
    numbered,
    onsets,
    talking,
    tone,
    write_media,
)


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


@pytest.mark.parametrize(("suffix", "codecs"), VIDEOS.values(), ids=VIDEOS)
def test_frames_and_sound_share_one_clock(tmp_path, suffix, codecs):
    rate_hz = 48000 if suffix == ".webm" else 44100
    pictures, clicks = numbered(50), bursts(2, [0.6, 1.4], rate_hz=rate_hz)
    path = write_media(tmp_path / f"a{suffix}", pictures, clicks, rate_hz=rate_hz, codecs=codecs)
    starts = {number(picture): start_s for start_s, _, picture in frames(Span(path))}
    np.testing.assert_allclose(onsets(sound(Span(path))), [starts[15], starts[35]], atol=0.003)


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


def test_decodes_no_further_than_frames_are_taken(tmp_path, monkeypatch):
    path = talking(tmp_path / "a.mp4", 4.0)
    decoded = spy_on_decoding(monkeypatch)
    iterator = frames(Span(path))
    for _ in range(5):
        next(iterator)
    assert len(decoded) < 10
    iterator.close()


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
