"""Spectral features of the sound (transfer paper, section 3.2) from one shared Fourier transform.

librosa's own functions would transform the sound five times and make the mel spectrogram twice.
Given the shared ones, they return the same numbers, bit for bit.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from msa_lightning.errors import ConfigError
from msa_lightning.extractors import media
from msa_lightning.extractors.assets import places
from msa_lightning.extractors.contract import Features, RawClip, Unusable

SAMPLE_RATE_HZ, N_FFT, HOP = 22050, 2048, 512
COLUMNS = (
    *(f"mfcc_{i}" for i in range(13)),
    *(f"chroma_{i}" for i in range(12)),  # from C upwards
    "centroid_hz",
    "rolloff_hz",
    "zero_crossing_rate",
    "tempo_bpm",
)


class LibrosaFeatures:
    """13 MFCC, 12 chroma, spectral centroid and rolloff, zero-crossing rate and tempo.

    The tempo is one number for the clip and stands in every row. A frame is centred on its time;
    its interval reaches half a hop to either side, within the clip.

    Args:
        size: 29, or 74 with zeros added: the paper's, so that it has the size of COVAREP.
        max_s: Seconds from the start of the clip to listen to, None for all of it. Memory grows
            with it, by about 2 MB a second.
    """

    modality = "audio"
    weights = "none"
    rate_hz: float | None = SAMPLE_RATE_HZ / HOP

    def __init__(self, *, size: Literal[29, 74], max_s: float | None) -> None:
        if max_s is not None and max_s <= 0:
            raise ConfigError(f"max_s: {max_s:g} is not positive; give seconds, or null for all")
        self.size, self.max_s = size, max_s
        self.name = f"librosa{size}"

    @property
    def columns(self) -> Sequence[str]:
        """Names of the features, then of the padding."""
        return [*COLUMNS, *(f"zero_{i}" for i in range(len(COLUMNS), self.size))]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Options, and the version of librosa, whose defaults count."""
        return {
            "version": 1,
            "media": media.VERSION,
            "librosa": version("librosa"),
            "size": self.size,
            "max_s": self.max_s,
        }

    def extract(self, clip: RawClip) -> Features:
        """Features of the sound of one clip.

        Raises:
            Unusable: If there is no sound.
        """
        if clip.audio is None:
            raise Unusable(clip.missing.get("audio", "no file"))
        sound = media.sound(clip.audio, rate_hz=SAMPLE_RATE_HZ, max_s=self.max_s)
        values = spectral_features(sound)
        duration_s = len(sound) / SAMPLE_RATE_HZ
        middles = np.arange(len(values)) * HOP / SAMPLE_RATE_HZ
        reach = np.array([-0.5, 0.5]) * HOP / SAMPLE_RATE_HZ
        padded = np.pad(values, ((0, 0), (0, self.size - values.shape[1])))
        return Features(
            values=padded,
            times=np.clip(middles[:, None] + reach, 0, duration_s),
            vector=padded.mean(axis=0, dtype=np.float64).astype(np.float32),
            facts={"duration_s": round(duration_s, 6), "tempo_bpm": float(values[0, -1])},
        )


@cache
def load() -> Any:
    """Import librosa and have numba compile it, one process at a time.

    numba keeps machine code in files that it numbers from 1. Two processes that fill one cache at
    once mix up the numbers, and from then on every process that loads the wrong code crashes.
    """
    folder = places()[-1][0]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "numba.lock"):
        import librosa

        noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ, dtype=np.float32)
        _spectral_features(librosa, noise)
    return librosa


def spectral_features(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """The 29 features of each frame.

    Args:
        sound: (N,) samples at 22,050 Hz, finite.

    Returns:
        (1 + N // 512, 29), finite also for silence.
    """
    return _spectral_features(load(), sound)


def _spectral_features(librosa: Any, sound: NDArray[np.float32]) -> NDArray[np.float32]:
    # A librosa function that is given a spectrogram uses it as it stands: the magnitude or the
    # power, whichever the function itself would have made.
    with warnings.catch_warnings():  # of a clip shorter than a window, and of one without pitch
        warnings.simplefilter("ignore", UserWarning)
        magnitude = np.abs(librosa.stft(sound, n_fft=N_FFT, hop_length=HOP))  # (1025, T)
        power = magnitude**2
        mel_db = librosa.power_to_db(
            librosa.feature.melspectrogram(S=power, sr=SAMPLE_RATE_HZ, n_fft=N_FFT)
        )  # (128, T)
        onsets = librosa.onset.onset_strength(S=mel_db, sr=SAMPLE_RATE_HZ, hop_length=HOP)
        tempo = librosa.feature.tempo(onset_envelope=onsets, sr=SAMPLE_RATE_HZ, hop_length=HOP)
        rows = [
            librosa.feature.mfcc(S=mel_db, sr=SAMPLE_RATE_HZ, n_mfcc=13),
            librosa.feature.chroma_stft(S=power, sr=SAMPLE_RATE_HZ, n_fft=N_FFT),
            librosa.feature.spectral_centroid(S=magnitude, sr=SAMPLE_RATE_HZ),
            librosa.feature.spectral_rolloff(S=magnitude, sr=SAMPLE_RATE_HZ),
            librosa.feature.zero_crossing_rate(sound, frame_length=N_FFT, hop_length=HOP),
            np.full((1, magnitude.shape[1]), tempo[0]),
        ]
    return np.concatenate(rows).T.astype(np.float32, order="C")
