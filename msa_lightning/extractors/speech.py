"""Where somebody speaks, and what is said.

Both need an optional extra: ``vad`` (silero-vad, its weights come with it) and ``asr``
(faster-whisper; its weights are an asset or a folder of the user's). They hear the sound as
:mod:`~msa_lightning.extractors.media` decodes it, and run on the CPU.
"""

import importlib.util
from collections.abc import Iterator
from functools import cache
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.extractors.contract import Span, Transcript, Unusable
from msa_lightning.extractors.media import duration_s, sound

RATE_HZ = 16000
"""What both models were trained on."""

BLOCK_S = 60
"""Sound is decoded and heard so much at a time, so that memory does not grow with the file. A
multiple of 4 s is a whole number of the model's frames."""

_FRAME = 512  # samples: silero-vad says once per frame how likely it is speech
_CONTEXT = 64  # samples of the frame before, which it hears too

_MODEL_FILES = "model.bin", "config.json", "tokenizer.json"


def hears_speech() -> bool:
    """Whether what :func:`voiced` needs is installed."""
    return all(importlib.util.find_spec(name) for name in ("silero_vad", "onnxruntime"))


def voiced(span: Span) -> list[tuple[float, float]]:
    """Find where somebody speaks, in constant memory.

    Thresholds are silero-vad's own: pauses shorter than 0.1 s do not count, nor does speech shorter
    than 0.25 s; 30 ms are added on either side.

    Args:
        span: File and part of it.

    Returns:
        Start and end in seconds from the start of the span, in order; empty if nobody speaks.

    Raises:
        ConfigError: If the extra ``vad`` is not installed.
        Unusable: No such file, not decodable, or no audio stream.
    """
    session, intervals = _silero()
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    context = np.zeros(_CONTEXT, np.float32)
    probabilities: list[float] = []
    heard = 0
    for samples in _blocks(span):
        heard += len(samples)
        frames = np.pad(samples, (0, -len(samples) % _FRAME)).reshape(-1, _FRAME)
        contexts = np.vstack([context, frames[:-1, -_CONTEXT:]])
        found, hidden, cell = session.run(
            ["speech_probs", "hn", "cn"],
            {"input": np.hstack([contexts, frames]), "h": hidden, "c": cell},
        )
        context = frames[-1, -_CONTEXT:]
        probabilities += found.ravel().tolist()
    found = intervals(probabilities, sampling_rate=RATE_HZ, audio_length_samples=heard)
    return [(speech["start"] / RATE_HZ, speech["end"] / RATE_HZ) for speech in found]


def _blocks(span: Span) -> Iterator[NDArray[np.float32]]:
    """The sound block by block, (N,), each but the last of BLOCK_S; zeros where there is none."""
    declared_s = duration_s(span.path)
    end_s = min(
        inf if span.end_s is None else span.end_s, inf if declared_s is None else declared_s
    )
    for i in count():
        start_s = span.start_s + i * BLOCK_S
        stop_s = min(start_s + BLOCK_S, end_s)
        size = round((stop_s - start_s) * RATE_HZ)
        if size <= 0:
            return
        try:
            samples = sound(Span(span.path, start_s, stop_s), rate_hz=RATE_HZ)
        except Unusable as finding:
            if finding.reason not in ("silent", "too short"):
                raise
            if finding.reason == "too short" and end_s == inf:
                return
            samples = np.zeros(0, np.float32)
        yield np.pad(samples, (0, max(0, size - len(samples))))


@cache
def _silero() -> tuple[Any, Any]:
    """The model, and silero-vad's function from its probabilities to intervals in samples."""
    if not hears_speech():
        raise ConfigError(
            "finding speech needs silero-vad and onnxruntime, which are not installed: "
            "pip install 'msa-lightning[vad]', or set cut=windows"
        )
    import torch

    threads = torch.get_num_threads()
    from silero_vad import get_speech_timestamps_from_probs, load_silero_vad

    torch.set_num_threads(threads)  # importing silero_vad sets them to 1
    # The model that takes many frames at once: the same numbers as torch's, six times as fast.
    return load_silero_vad(onnx=True, sequence=True).session, get_speech_timestamps_from_probs


def recognise(span: Span, model: Path) -> Transcript:
    """Recognise what is said, by faster-whisper; the same sound always gives the same words.

    Memory grows with the span; cut long files first.

    Args:
        span: File and part of it.
        model: Folder of a Whisper model in the format of CTranslate2.

    Returns:
        The words with their times; those of a word next to a pause are coarse, to half a second.

    Raises:
        Unusable: No word was heard, or the sound cannot be used.
        ConfigError: If the extra ``asr`` is not installed.
        DataNotFoundError: If there is no such model.
        DataError: If the folder holds something else.
    """
    samples = sound(span, rate_hz=RATE_HZ)
    length_s = len(samples) / RATE_HZ
    segments, _ = _whisper(model).transcribe(
        samples,
        word_timestamps=True,
        vad_filter=True,  # where nobody speaks, Whisper makes words up
        temperature=0.0,  # a higher one, tried where the first words are unlikely, draws by chance
        condition_on_previous_text=False,
    )
    words: list[str] = []
    times: list[tuple[float, float]] = []
    for word in (word for segment in segments for word in segment.words or ()):
        text = "".join(word.word.split())
        start_s, end_s = np.clip([word.start, max(word.start, word.end)], 0, length_s).tolist()
        if words and not word.word[:1].isspace():  # the rest of the word before
            words[-1] += text
            times[-1] = times[-1][0], end_s
        elif text:
            words.append(text)
            times.append((start_s, end_s))
    if not words:
        raise Unusable("empty transcript", f"{span.path.name}: no word was recognised")
    return Transcript(" ".join(words), tuple(times), length_s)


@cache
def _whisper(folder: Path) -> Any:
    if not importlib.util.find_spec("faster_whisper"):
        raise ConfigError(
            "recognising speech needs faster-whisper, which is not installed: "
            "pip install 'msa-lightning[asr]', or set asr=false"
        )
    if lacking := [name for name in _MODEL_FILES if not (folder / name).is_file()]:
        # Checked here, because faster-whisper would go to the model hub for them.
        raise DataNotFoundError(
            f"{folder}: no faster-whisper model, {', '.join(lacking)} not found in it; set "
            "asr_model to a folder with a Whisper model in CTranslate2's format"
        )
    from faster_whisper import WhisperModel

    try:
        return WhisperModel(str(folder), device="cpu", compute_type="int8", local_files_only=True)
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{folder}: faster-whisper cannot load it ({error}); set asr_model to a folder with a "
            "Whisper model in CTranslate2's format"
        ) from error
