import os
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
from omegaconf import OmegaConf

from msa_lightning.config import CONF
from msa_lightning.errors import ConfigError
from msa_lightning.extractors.contract import RawClip, Span, Unusable
from msa_lightning.extractors.librosa import COLUMNS, LibrosaFeatures, spectral_features
from tests.data.make_data import real_data
from tests.data.make_media import bursts, numbered, tone, write_media

RATE_HZ, HOP_S = 22050, 512 / 22050


def voice(n: int) -> np.ndarray:
    """A buzz with a wavering pitch and four syllables a second."""
    t = np.arange(n) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(3 * t)) / RATE_HZ
    buzz = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.1 * buzz * (1 + np.sin(8 * np.pi * t))).astype(np.float32)


def noise(n: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(n).normal(size=n)).astype(np.float32)


SIGNALS = {
    "voice": voice,
    "noise": noise,
    "first half silent": lambda n: np.where(np.arange(n) < n // 2, 0, noise(n)),
    "one click": lambda n: np.eye(1, n, n // 3, dtype=np.float32)[0],
    "constant": lambda n: np.full(n, 0.5, np.float32),
    "silence": lambda n: np.zeros(n, np.float32),
    "full scale": lambda n: np.sign(noise(n)),
}


def separately(y: np.ndarray) -> np.ndarray:
    """Each feature by librosa's own function, with its default parameters."""
    rows = [
        librosa.feature.mfcc(y=y, n_mfcc=13),
        librosa.feature.chroma_stft(y=y),
        librosa.feature.spectral_centroid(y=y),
        librosa.feature.spectral_rolloff(y=y),
        librosa.feature.zero_crossing_rate(y=y),
    ]
    tempo = np.full((1, rows[0].shape[1]), librosa.feature.tempo(y=y)[0])
    return np.concatenate([*rows, tempo]).T.astype(np.float32)


def of_sound(path: Path, sound: np.ndarray, **options) -> tuple[LibrosaFeatures, RawClip]:
    write_media(path, sound=sound, rate_hz=RATE_HZ)
    extractor = LibrosaFeatures(**{"size": 29, "max_s": 3.0} | options)
    return extractor, RawClip("v_0", "v", audio=Span(path))


@pytest.mark.filterwarnings("ignore::UserWarning")  # librosa's own, of short sounds
@pytest.mark.parametrize("seconds", [0.05, 0.1, 1.0, 3.0, 7.3])
@pytest.mark.parametrize("kind", SIGNALS)
def test_bits_are_those_of_separate_librosa_functions(kind, seconds):
    y = SIGNALS[kind](round(seconds * RATE_HZ)).astype(np.float32)
    found = spectral_features(y)
    assert found.shape == (1 + len(y) // 512, 29)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, separately(y))


def test_columns_mean_what_they_are_called(tmp_path):
    extractor, clip = of_sound(tmp_path / "a.wav", tone(2, rate_hz=RATE_HZ, pitch_hz=440))
    middle = dict(zip(extractor.columns, extractor.extract(clip).values[40], strict=True))
    assert middle["centroid_hz"] == pytest.approx(440, rel=0.02)
    assert middle["rolloff_hz"] == pytest.approx(440, abs=22)
    assert middle["zero_crossing_rate"] == pytest.approx(2 * 440 / RATE_HZ, rel=0.05)
    assert middle["chroma_9"] == 1  # a
    clicks = bursts(3, np.arange(0, 3, 0.5), rate_hz=RATE_HZ)
    extractor, clip = of_sound(tmp_path / "b.wav", clicks)
    features = extractor.extract(clip)
    assert features.facts["tempo_bpm"] == pytest.approx(120, rel=0.05)
    assert (features.values[:, -1] == features.values[0, -1]).all()


def test_a_clip_is_listened_to_for_max_s(tmp_path):
    extractor, clip = of_sound(tmp_path / "a.wav", noise(5 * RATE_HZ))
    features = extractor.extract(clip)
    assert features.facts["duration_s"] == 3
    assert len(features.values) == 1 + 3 * RATE_HZ // 512
    whole = LibrosaFeatures(size=29, max_s=None).extract(clip)
    assert whole.facts["duration_s"] == 5
    assert len(whole.values) == 1 + 5 * RATE_HZ // 512


def test_frames_are_centred_on_their_time_within_the_clip(tmp_path):
    extractor, clip = of_sound(tmp_path / "a.wav", noise(RATE_HZ))
    times = extractor.extract(clip).times
    assert times[0] == pytest.approx([0, HOP_S / 2])
    assert times[10] == pytest.approx([9.5 * HOP_S, 10.5 * HOP_S])
    assert times[-1, 1] == 1
    assert (times[:, 0] < times[:, 1]).all()
    np.testing.assert_allclose(times[1:, 0], times[:-1, 1])
    assert extractor.rate_hz == pytest.approx(1 / HOP_S)


def test_74_are_the_29_and_zeros(tmp_path):
    extractor, clip = of_sound(tmp_path / "a.wav", voice(RATE_HZ))
    narrow = extractor.extract(clip)
    wide_extractor = LibrosaFeatures(size=74, max_s=3.0)
    wide = wide_extractor.extract(clip)
    np.testing.assert_array_equal(wide.values[:, :29], narrow.values)
    assert not wide.values[:, 29:].any()
    np.testing.assert_array_equal(wide.vector[:29], narrow.vector)
    np.testing.assert_allclose(narrow.vector, narrow.values.mean(axis=0), rtol=1e-5)
    assert wide.vector.shape == (74,)
    assert len(wide_extractor.columns) == len(set(wide_extractor.columns)) == 74
    assert tuple(extractor.columns) == COLUMNS == tuple(wide_extractor.columns[:29])
    assert wide.values.dtype == wide.vector.dtype == np.float32


def test_a_part_of_a_file_is_that_part(tmp_path):
    y = np.concatenate([noise(RATE_HZ), voice(RATE_HZ)])
    extractor, clip = of_sound(tmp_path / "a.wav", y)
    part = RawClip("v_1", "v", audio=Span(clip.audio.path, 1.0, 2.0))
    alone, alone_clip = of_sound(tmp_path / "b.wav", voice(RATE_HZ))
    np.testing.assert_allclose(
        extractor.extract(part).values, alone.extract(alone_clip).values, rtol=1e-5, atol=1e-4
    )


def test_unusable_sound_says_why(tmp_path):
    extractor, clip = of_sound(tmp_path / "a.wav", noise(RATE_HZ // 20))
    with pytest.raises(Unusable, match="too short"):
        extractor.extract(clip)
    extractor, clip = of_sound(tmp_path / "b.wav", np.zeros(RATE_HZ, np.float32))
    with pytest.raises(Unusable, match="silent"):
        extractor.extract(clip)
    write_media(tmp_path / "c.mp4", numbered(25))
    with pytest.raises(Unusable, match="no audio stream"):
        extractor.extract(RawClip("v_0", "v", audio=Span(tmp_path / "c.mp4")))
    with pytest.raises(Unusable, match="duplicate id"):
        extractor.extract(RawClip("v_0", "v", missing={"audio": "duplicate id"}))
    with pytest.raises(Unusable, match="no file"):
        extractor.extract(RawClip("v_0", "v"))


def test_every_option_is_part_of_the_identity():
    identities = [
        LibrosaFeatures(size=size, max_s=max_s).identity
        for size in (29, 74)
        for max_s in (3.0, 2.0, None)
    ]
    assert len({str(identity) for identity in identities}) == 6
    assert all(identity["librosa"] == librosa.__version__ for identity in identities)
    with pytest.raises(ConfigError, match="max_s"):
        LibrosaFeatures(size=29, max_s=0)


def test_describing_itself_does_not_import_librosa():
    code = (
        "import sys; from msa_lightning.extractors.librosa import LibrosaFeatures as L;"
        "e = L(size=29, max_s=3.0); e.columns, e.identity;"
        "sys.exit(any(m in sys.modules for m in ('librosa', 'numba', 'scipy', 'av')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["librosa29", "librosa74"])
def test_config_names_the_feature_set(name):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose(f"extractor/audio/{name}").extractor.audio
    options = OmegaConf.to_container(cfg)
    assert options.pop("_target_") == "msa_lightning.extractors.librosa.LibrosaFeatures"
    assert LibrosaFeatures(**options).name == name


@pytest.mark.realdata
def test_real_speech_gives_the_bits_of_librosa():
    from msa_lightning.extractors import media

    clips = sorted((real_data("grid") / "video").glob("*.mpg"))[:2]
    clips += sorted(real_data("ravdess").rglob("*.flac"))[:2]
    extractor = LibrosaFeatures(size=29, max_s=3.0)
    for path in clips:
        found = extractor.extract(RawClip(path.stem, path.stem, audio=Span(path))).values
        np.testing.assert_array_equal(found, separately(media.sound(Span(path), max_s=3.0)))


FIRST_USE = """
import numpy as np
from msa_lightning.extractors.librosa import spectral_features
spectral_features(np.random.default_rng(0).standard_normal(22050, dtype=np.float32))
"""


@pytest.mark.slow
def test_processes_that_start_at_once_do_not_spoil_the_compiled_code(tmp_path):
    folders = {"NUMBA_CACHE_DIR": str(tmp_path / "numba"), "XDG_CACHE_HOME": str(tmp_path)}
    environment = os.environ | folders | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FIRST_USE]
    first = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in first] == [0, 0]
    assert subprocess.run(command, env=environment).returncode == 0
    assert list((tmp_path / "numba").rglob("*.nbc"))
