"""A small corpus named like RAVDESS: tones whose pitch follows the emotion, and features."""

from pathlib import Path

import numpy as np

from tests.data.make_media import tone, write_media

EMOTIONS = range(1, 5)
COLUMNS = {"mfcc": 259, "au": 35}


def name(actor: int, emotion: int, *, modality: str = "03", statement: int = 1) -> str:
    return f"{modality}-01-{emotion:02}-01-{statement:02}-01-{actor:02}"


def make_recordings(folder: Path, actors: range = range(1, 9)) -> Path:
    """A recording of 0.3 s per actor, emotion and statement."""
    for actor in actors:
        for emotion in EMOTIONS:
            for statement in (1, 2):
                pitch_hz = 200 * emotion + 5 * actor + statement
                sound = tone(0.3, rate_hz=16000, pitch_hz=pitch_hz)
                file = f"{name(actor, emotion, statement=statement)}.wav"
                write_media(folder / f"Actor_{actor:02}" / file, sound=sound, rate_hz=16000)
    return folder


def make_features(path: Path, actors: range = range(1, 17)) -> Path:
    """One npz with a row for each performance, not in the order of actors."""
    rng = np.random.default_rng(0)
    rows = [(a, e, s) for e in EMOTIONS for s in (1, 2) for a in actors]
    ids = np.array([name(a, e, modality="01", statement=s) for a, e, s in rows])
    emotion = np.array([e for _, e, _ in rows])
    arrays = {
        key: (emotion[:, None] * rng.normal(size=d) + 0.3 * rng.normal(size=(len(rows), d)))
        for key, d in COLUMNS.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, id=ids, **{key: x.astype(np.float32) for key, x in arrays.items()})
    return path
