import ctypes
import functools
import sys
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import torch

from msa_lightning.datasets.transcripts import read_transcript
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.extractors import speech
from msa_lightning.extractors.assets import WHISPER_TINY_EN, find
from msa_lightning.extractors.contract import Span, Unusable
from msa_lightning.extractors.media import sound
from msa_lightning.extractors.speech import hears_speech, recognise, voiced
from tests.data.make_data import real_data
from tests.data.make_media import numbered, tone, write_media

SENTENCE = "The music was wonderful and the story was very good."

needs_vad = pytest.mark.skipif(not hears_speech(), reason="needs the extra vad")


@functools.cache
def spoken(text: str, rate_hz: int) -> np.ndarray:
    """A sentence by espeak-ng, without the silence around it, (N,) float32."""
    loader = pytest.importorskip("espeakng_loader", reason="needs espeakng-loader to speak")
    library = ctypes.CDLL(loader.get_library_path())
    made_hz = library.espeak_Initialize(2, 0, loader.get_data_path().encode(), 0)
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples, count, _):
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)) / np.float32(32768))
        return 0

    library.espeak_SetSynthCallback(take)
    library.espeak_SetVoiceByName(b"en-us")
    data = text.encode() + b"\0"
    library.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)
    voice = np.concatenate(pieces)
    loud = np.flatnonzero(np.abs(voice) > 0.02)
    voice = voice[loud[0] : loud[-1] + 1]
    at = np.arange(0, len(voice), made_hz / rate_hz)
    return np.interp(at, np.arange(len(voice)), voice).astype(np.float32)


def talk(
    path: Path, starts: list[float], seconds: float, *, rate_hz: int = 16000
) -> list[tuple[float, float]]:
    """Write a file in which the sentence is said at each of the starts; when it is said."""
    voice = spoken(SENTENCE, rate_hz)
    samples = np.zeros(round(seconds * rate_hz), np.float32)
    for start in starts:
        samples[round(start * rate_hz) :][: len(voice)] += voice
    write_media(path, sound=samples, rate_hz=rate_hz)
    return [(start, start + len(voice) / rate_hz) for start in starts]


def groups(intervals: list[tuple[float, float]], pause_s: float = 1.0) -> list[tuple[float, float]]:
    """Intervals, joined over what is no more than a breath."""
    joined: list[tuple[float, float]] = []
    for start, end in intervals:
        if joined and start - joined[-1][1] < pause_s:
            start, _ = joined.pop()
        joined.append((start, end))
    return joined


@needs_vad
@pytest.mark.parametrize("ending", [".wav", ".mp4", ".mp3"])
def test_speech_is_found_between_its_pauses(tmp_path, ending):
    path = tmp_path / f"talk{ending}"
    said = talk(path, [1.0, 7.0], 12, rate_hz=44100)
    np.testing.assert_allclose(groups(voiced(Span(path))), said, atol=0.2)


@needs_vad
def test_times_count_from_the_start_of_the_span(tmp_path):
    path = tmp_path / "talk.wav"
    said = talk(path, [1.0, 7.0], 12)
    found = groups(voiced(Span(path, 6.0, 11.5)))
    np.testing.assert_allclose(found, [np.subtract(said[1], 6.0)], atol=0.2)


@needs_vad
def test_a_file_in_blocks_sounds_like_the_whole_of_it(tmp_path, monkeypatch):
    import silero_vad

    path = tmp_path / "talk.wav"
    talk(path, [1.0, 5.5, 10.2], 14.3)
    session, _ = speech._silero()
    heard: list[float] = []
    monkeypatch.setattr(speech, "_silero", lambda: (session, lambda p, **_: heard.extend(p) or []))
    monkeypatch.setattr(speech, "BLOCK_S", 4)  # cuts through two of the sentences
    voiced(Span(path))
    whole = silero_vad.load_silero_vad(onnx=True, sequence=True)
    expected = whole.audio_forward(sound(Span(path), rate_hz=16000))
    np.testing.assert_allclose(heard, expected, atol=1e-5)


@needs_vad
def test_speech_is_found_behind_blocks_of_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "BLOCK_S", 4)
    path = tmp_path / "talk.wav"
    said = talk(path, [0.5, 17.0], 24.05)  # the last block is too short for anything
    np.testing.assert_allclose(groups(voiced(Span(path))), said, atol=0.2)


@needs_vad
@pytest.mark.parametrize("kind", ["silence", "tone", "noise", "blip"])
def test_what_is_no_speech_gives_no_interval(tmp_path, kind):
    samples = {
        "silence": np.zeros(48000, np.float32),
        "tone": tone(3, rate_hz=16000),
        "noise": 0.1 * np.random.default_rng(0).normal(size=48000),
        "blip": tone(0.05, rate_hz=16000),
    }[kind]
    path = write_media(tmp_path / "sound.wav", sound=samples, rate_hz=16000)
    assert voiced(Span(path)) == []


@needs_vad
def test_a_file_without_sound_says_so(tmp_path):
    path = write_media(tmp_path / "silent_film.mp4", numbered(10))
    with pytest.raises(Unusable, match="no audio stream"):
        voiced(Span(path))


@needs_vad
def test_loading_the_model_leaves_the_threads_of_torch_alone(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "silero_vad"]:
        monkeypatch.delitem(sys.modules, name)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        speech._silero.__wrapped__()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_without_the_extra_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    assert not hears_speech()
    with pytest.raises(ConfigError, match=r"pip install 'msa-lightning\[vad\]', or set cut=window"):
        speech._silero.__wrapped__()
    path = write_media(tmp_path / "a.wav", sound=tone(1))
    with pytest.raises(ConfigError, match=r"pip install 'msa-lightning\[asr\]', or set asr=false"):
        recognise(Span(path), tmp_path)


def test_a_folder_without_a_model_says_what_is_lacking(tmp_path):
    pytest.importorskip("faster_whisper", reason="needs the extra asr")
    path = write_media(tmp_path / "a.wav", sound=tone(1))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataNotFoundError, match=r"model\.bin, tokenizer\.json not found"):
        recognise(Span(path), tmp_path)


def test_a_folder_with_something_else_is_no_model(tmp_path):
    pytest.importorskip("faster_whisper", reason="needs the extra asr")
    path = write_media(tmp_path / "a.wav", sound=tone(1))
    for name in ("config.json", "tokenizer.json", "model.bin"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="cannot load it"):
        recognise(Span(path), tmp_path)


@pytest.fixture(scope="module")
def whisper() -> Path:
    pytest.importorskip("faster_whisper", reason="needs the extra asr")
    try:
        return find(WHISPER_TINY_EN).path
    except DataNotFoundError as error:
        pytest.skip(str(error))


def test_words_are_recognised_with_their_times(tmp_path, whisper):
    path = tmp_path / "talk.mp4"
    ((start, end),) = talk(path, [1.0], 5, rate_hz=44100)
    found = recognise(Span(path), whisper)
    heard = [word.strip(".,").lower() for word in found.text.split()]
    assert len({"music", "was", "and", "story", "very", "good"} & set(heard)) >= 4
    assert len(found.words) == len(heard)
    middles = np.mean(found.words, axis=1)
    assert (np.diff(middles) > 0).all()
    assert start - 0.5 < middles[0]
    assert middles[-1] < end + 0.3
    assert found.duration_s == pytest.approx(5, abs=0.1)
    assert recognise(Span(path), whisper) == found


def test_times_of_words_lie_in_the_span(tmp_path, whisper):
    path = tmp_path / "talk.wav"
    talk(path, [1.0, 7.0], 12)
    found = recognise(Span(path, 6.5, 10.0), whisper)
    assert found.duration_s == 3.5
    assert 0 <= np.min(found.words) < 1.0
    assert 2.0 < np.max(found.words) <= 3.5


def test_silence_is_not_recognised(tmp_path, whisper):
    path = write_media(tmp_path / "a.wav", sound=np.zeros(32000), rate_hz=16000)
    with pytest.raises(Unusable, match="silent"):
        recognise(Span(path), whisper)


def test_sound_without_words_is_an_empty_transcript(tmp_path, whisper):
    path = write_media(tmp_path / "a.wav", sound=tone(2, rate_hz=16000), rate_hz=16000)
    with pytest.raises(Unusable, match="empty transcript"):
        recognise(Span(path), whisper)


def grid() -> list[tuple[Path, Path]]:
    folder = real_data("grid")
    return [(p, folder / f"align/{p.stem}.align") for p in sorted((folder / "video").iterdir())]


@needs_vad
@pytest.mark.realdata
def test_speakers_of_grid_are_heard_where_their_words_are():
    words = heard = 0
    for video, align in grid():
        intervals = voiced(Span(video))
        (said,) = groups(intervals)
        times = read_transcript(align).words
        # Soft first sounds ("l") are missed; the interval never reaches far into the silence.
        assert times[0][0] - 0.1 < said[0] < times[0][1] + 0.1
        assert times[-1][0] < said[1] < times[-1][1] + 0.15
        words += len(times)
        heard += sum(any(a <= (s + e) / 2 <= b for a, b in intervals) for s, e in times)
    assert heard / words > 0.95


@pytest.mark.slow
@pytest.mark.realdata
def test_most_of_what_is_said_in_grid_is_recognised(whisper):
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    said = right = 0
    for video, align in grid():
        found = recognise(Span(video), whisper).text.lower()
        spelt = "".join(f" {digits[int(c)]}" if c.isdigit() else c for c in found)
        heard = "".join(c for c in spelt if c.isalpha() or c.isspace()).split()
        words = read_transcript(align).text.split()
        said += len(words)
        matching = SequenceMatcher(None, words, heard, autojunk=False).get_matching_blocks()
        right += sum(block.size for block in matching)
    assert right / said > 0.6
