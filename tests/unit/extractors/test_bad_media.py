"""Files that are damaged, empty, silent, or none of ours."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from msa_lightning.extractors.contract import Span, Unusable
from msa_lightning.extractors.media import frames, sound, streams
from tests.data.make_media import number, numbered, talking, tone, write_media


def refusal(take, path: Path, *span) -> str:
    """Why a clip is unusable; the detail names the file."""
    with pytest.raises(Unusable) as caught:
        list(take(Span(path, *span)))
    assert path.name in caught.value.detail
    return caught.value.reason


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
