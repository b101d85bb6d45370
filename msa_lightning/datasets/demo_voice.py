"""The voice of the raw demo corpus: espeak-ng; pitch, rate and loudness follow the evidence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msa_lightning.datasets.demo_clips import DemoClip
from msa_lightning.errors import DataNotFoundError

PAUSES_S = 0.1, 0.1  # before and after
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak-ng's parameters
_SYNCHRONOUS, _CHARACTER, _UTF8 = 2, 1, 1


def speak(clips: Sequence[DemoClip]) -> tuple[list[NDArray[np.int16]], int]:
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


def add_room(clip: DemoClip, samples: NDArray[np.int16], rate_hz: int) -> NDArray[np.int16]:
    """Set the loudness, and add pauses and the noise of a room."""
    rng = np.random.default_rng((*clip.seed, 0))
    before, after = (round(pause * rate_hz) for pause in PAUSES_S)
    sound = np.pad(samples / 32768, (before, after))
    loudness_db = -23 + clip.speaker.loudness_db + 3.5 * np.clip(clip.evidence["audio"], -3, 3)
    sound *= 10 ** (loudness_db / 20) / np.sqrt(np.mean(np.square(samples / 32768)))
    sound += 0.001 * rng.standard_normal(len(sound))
    return np.round(32767 * sound.clip(-1, 1)).astype(np.int16)
