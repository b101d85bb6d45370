"""The demo corpus: synthetic clips in CMU-MOSEI's file format, made on the spot.

Each clip has one latent sentiment z, part speaker and part clip. What a modality shows of it is
evidence e_m = z + noise, and the noises are independent: text is strong, audio and visual are weak,
and because each errs in its own way the three together beat text. The frames of a modality are a
linear image of e_m and of a few factors that have nothing to do with sentiment (who speaks, what is
said), plus noise from frame to frame. Labels are z, rated as in MOSEI: in steps of 1/3.

On unseen videos of the default corpus a ridge regression on the means correlates by about .64 from
text, .42 from audio, .40 from visual and .72 from all three (mean of five seeds).
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from msa_lightning.datasets.csd import write_sequence
from msa_lightning.datasets.labels import FOLDS
from msa_lightning.errors import ConfigError

log = logging.getLogger(__name__)

_VERSION = 1  # counts up when the same options give other data
_METADATA = {
    "dataset name": "msa-lightning demo corpus (synthetic)",
    "computational sequence description": "made by a program; nobody said this",
}
_FILES = {
    "text": ("CMU_MOSEI_TimestampedWordVectors.csd", "glove_vectors", 300),
    "audio": ("CMU_MOSEI_COVAREP.csd", "COVAREP", 74),
    "visual": ("CMU_MOSEI_VisualOpenFace2.csd", "OpenFace_2", 713),
}
_LABELS = ("CMU_MOSEI_Labels.csd", "All Labels")
_FOLDS = "standard_folds_video_ids.json"
_NOISE = {"text": 1.0, "audio": 2.0, "visual": 1.8}  # of the evidence, in sd of z
_FACTORS = 3  # of a modality that have nothing to do with sentiment
_WORDS_HZ = 2.5

Sequences = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def make_demo(
    folder: Path,
    *,
    seed: int,
    videos: int,
    clips_per_video: float,
    visual_rate_hz: float,
    audio_rate_hz: float,
) -> None:
    """Write the demo corpus, unless it is there already with the same options.

    Args:
        folder: Where the four .csd files and the folds go.
        seed: The same seed gives the same bytes.
        videos: How many labelled videos there are; at least 10.
        clips_per_video: How many clips a video has on average.
        visual_rate_hz: Frames a second of the visual features.
        audio_rate_hz: Frames a second of the audio features.
    """
    options: dict[str, Any] = {
        "version": _VERSION,
        "seed": seed,
        "videos": videos,
        "clips_per_video": clips_per_video,
        "visual_rate_hz": visual_rate_hz,
        "audio_rate_hz": audio_rate_hz,
    }
    stamp = folder / "demo.json"
    names = [*(name for name, _, _ in _FILES.values()), _LABELS[0], _FOLDS]
    complete = all((folder / name).is_file() for name in [*names, stamp.name])
    if complete and stamp.read_text() == json.dumps(options):
        return
    if videos < 10 or min(clips_per_video, visual_rate_hz, audio_rate_hz) <= 0:
        raise ConfigError("source.make: videos must be at least 10, the other numbers positive")
    log.info("writing the synthetic demo corpus to %s", folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)  # written last, so that a killed job starts anew

    rng = np.random.default_rng(seed)
    rates = {"text": _WORDS_HZ, "audio": audio_rate_hz, "visual": visual_rate_hz}
    sequences, folds = _make(rng, videos, clips_per_video, rates)
    for modality, (file, name, _) in _FILES.items():
        write_sequence(folder / file, name, sequences[modality], _METADATA)
    write_sequence(folder / _LABELS[0], _LABELS[1], sequences["labels"], _METADATA)
    (folder / _FOLDS).write_text(json.dumps(folds))
    stamp.write_text(json.dumps(options))


def _make(
    rng: np.random.Generator, videos: int, clips_per_video: float, rates: dict[str, float]
) -> tuple[Sequences, dict[str, list[str]]]:
    """Draw the corpus: rows by video for each modality and the labels, and the folds."""
    ids = [f"{'-' if i % 9 == 4 else ''}demo_{i:04d}" for i in range(videos)]
    images = {  # from evidence and factors to columns
        m: rng.normal(size=(1 + _FACTORS, dim)) for m, (_, _, dim) in _FILES.items()
    }
    sequences: Sequences = {name: {} for name in ("text", "audio", "visual", "labels")}
    for video in ids:
        clips = max(2, rng.poisson(clips_per_video))
        lengths = rng.uniform(2, 6, clips)
        gaps = rng.uniform(0, 1, clips)
        starts = np.cumsum(gaps + lengths) - lengths
        intervals = np.stack([starts, starts + lengths], axis=1)
        latent = np.sqrt(0.3) * rng.normal() + np.sqrt(0.7) * rng.normal(size=clips)
        sequences["labels"][video] = (_rate(rng, latent), intervals)
        for m, image in images.items():
            noise = _NOISE[m] * (
                np.sqrt(0.3) * rng.normal() + np.sqrt(0.7) * rng.normal(size=clips)
            )
            factors = rng.normal(size=_FACTORS) + rng.normal(size=(clips, _FACTORS))
            state = np.concatenate([(latent + noise)[:, None], factors], axis=1) @ image
            rows = _frames(rng, state, intervals, rates[m])
            if rng.random() > 0.03:  # some videos show no face, have no sound or no transcript
                sequences[m][video] = _spoil(rng, m, *rows)
    return sequences, _assign(rng, ids)


def _rate(rng: np.random.Generator, latent: np.ndarray) -> np.ndarray:
    """Rate clips as three people would: sentiment and six emotions, (C, 7) float32.

    Each gives a whole number, sentiment from -3 to 3 and an emotion from 0 to 3; the label is the
    mean of the three, as in MOSEI.
    """
    means = np.stack(
        [
            0.2 + 1.2 * latent,
            latent - 0.2,  # happy
            -0.7 * latent - 0.6,  # sad
            -0.8 * latent - 0.7,  # anger
            0.4 * np.abs(latent) - 0.9,  # surprise
            -0.7 * latent - 0.7,  # disgust
            -0.5 * latent - 0.8,  # fear
        ],
        axis=1,
    )
    ratings = np.round(means + 0.4 * rng.normal(size=(3, *means.shape)))
    low = np.array([-3, 0, 0, 0, 0, 0, 0])
    rated: np.ndarray = np.clip(ratings, low, 3).mean(axis=0).astype(np.float32)
    return rated


def _frames(
    rng: np.random.Generator, state: np.ndarray, intervals: np.ndarray, rate_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """Spread clip states (C, D) over the frames of a video: features (T, D), intervals (T, 2)."""
    times = np.arange(0, intervals[-1, 1], 1 / rate_hz)
    clip = np.searchsorted(intervals[:, 1], times, side="right").clip(0, len(state) - 1)
    noise = rng.standard_normal((len(times), state.shape[1]), dtype=np.float32)
    features = state[clip].astype(np.float32) + noise
    return features, np.stack([times, times + 1 / rate_hz], axis=1)


def _spoil(
    rng: np.random.Generator, modality: str, features: np.ndarray, intervals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add the faults of the real files: lost frames, constant columns, NaN and -inf."""
    if modality == "text":
        return features, intervals
    if modality == "audio":
        features[:, 73] = 0
        features[rng.random(len(features)) < 0.01, 40:44] = -np.inf
        features[rng.random(len(features)) < 0.005, 2] = np.nan
    else:
        features[:, 0] = 1
        features[:, 712] = 0
    start = rng.uniform(0, intervals[-1, 1])
    lost = (intervals[:, 0] > start) & (intervals[:, 0] < start + rng.exponential(2.0))
    return features[~lost], intervals[~lost]


def _assign(rng: np.random.Generator, ids: list[str]) -> dict[str, list[str]]:
    """Draw folds of about 65, 12 and 20 % of the videos; a few videos are in none.

    As in MOSEI, one id of the test fold has no labels.
    """
    shuffled = rng.permutation(ids).tolist()
    cuts = np.round(np.cumsum([0.65, 0.12, 0.2]) * len(ids)).astype(int)
    train, valid, test, _ = (part.tolist() for part in np.split(np.array(shuffled), cuts))
    return dict(zip(FOLDS.values(), (train, valid, [*test, "demo_unlabelled"]), strict=True))
