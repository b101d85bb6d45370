from pathlib import Path

import av
import numpy as np
import pytest

from msa_lightning.extractors.contract import Span
from msa_lightning.extractors.media import frames, sound
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


@pytest.mark.parametrize(("suffix", "codecs"), (VIDEOS | WITH_MP3).values(), ids=VIDEOS | WITH_MP3)
def test_decodes_the_sound_of_every_container(tmp_path, suffix, codecs):
    samples = sound(Span(talking(tmp_path / f"a{suffix}", 1.0, codecs=codecs)))
    assert samples.dtype == np.float32
    assert len(samples) / 22050 == pytest.approx(1.0, abs=0.06)
    middle = samples[5000:16000]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.03)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * 22050 / len(middle) == pytest.approx(440, abs=3)


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


@pytest.mark.realdata
@pytest.mark.parametrize(("corpus", "pattern"), [("mosi", "**/*.wav"), ("ravdess", "**/*.flac")])
def test_reads_the_samples_that_soundfile_reads(corpus, pattern):
    soundfile = pytest.importorskip("soundfile")
    path = sorted(real_data(corpus).glob(pattern))[0]
    expected, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    found = sound(Span(path), rate_hz=rate_hz)
    np.testing.assert_allclose(found, expected.mean(axis=1), rtol=0, atol=1e-7)
