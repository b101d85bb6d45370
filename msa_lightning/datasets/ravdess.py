"""RAVDESS, acted speech whose file names are its labels (Livingstone and Russo, PLoS ONE 13, 2018).

A name is seven numbers of two digits: modality (01 film with sound, 02 film, 03 sound), channel (01
speech, 02 song), emotion, intensity, statement, repetition, actor. A performance is handed out in
each modality; it is one clip here. Its id, ``actor07_04010201`` say, has the actor in the place of
the video, so that no split cuts an actor; then emotion, intensity, statement and repetition.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msa_lightning.datasets.labels import LabelColumns
from msa_lightning.datasets.manifest import SOUND, VIDEO, Manifest, by_id, raw_clip, span
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
COLUMNS = {"emotion": LabelColumns(["emotion"], 0, len(EMOTIONS) - 1)}
_NAME = re.compile(r"(0[123])-01-(0[1-8])-(\d\d)-(\d\d)-(\d\d)-(\d\d)")  # speech
_SPLITS = ("train", "valid", "test")


class Performance(NamedTuple):
    """What a file name says; ``emotion`` is an index of :data:`EMOTIONS`."""

    id: str
    actor: int
    emotion: int
    modality: str

    @property
    def video(self) -> str:
        """The actor, as the id has it."""
        return self.id.split("_")[0]


def performance(name: str) -> Performance | None:
    """Read a file's name without its ending; None if it is not one of RAVDESS's speech files."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    modality, emotion, *others, actor = match.groups()
    clip = f"actor{actor}_{emotion}{''.join(others)}"
    return Performance(clip, int(actor), int(emotion) - 1, modality)


def labels(performances: Sequence[Performance]) -> dict[str, np.ndarray]:
    """Emotion of each of N clips as a class index, (N, 1) float32."""
    return {"emotion": np.array([[p.emotion] for p in performances], np.float32)}


def splits(performances: Sequence[Performance], folds: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Split of each of N clips by its actor, (N,) str; none for actors that are in no fold.

    Args:
        performances: The clips.
        folds: Actors of train, valid and test.

    Raises:
        ConfigError: If a fold has another name, or an actor is in two.
    """
    of: dict[int, str] = {}
    for split, actors in folds.items():
        if split not in _SPLITS:
            raise ConfigError(f"source.folds.{split}: expected {', '.join(_SPLITS)}")
        for actor in actors:
            if of.setdefault(actor, split) != split:
                raise ConfigError(f"source.folds: actor {actor} is in {of[actor]} and {split}")
    return np.array([of.get(p.actor, "none") for p in performances])


class Ravdess:
    """Find the speech recordings of RAVDESS, at any depth of a folder.

    Sound comes from the sound file (03), else from the film (01); frames from a film.

    Args:
        corpus: Name of the corpus.
        folder: Where the files are, ``Actor_01/03-01-…`` as a rule.
        folds: Actors of train, valid and test; others are in no split.
    """

    def __init__(self, *, corpus: str, folder: str, folds: Mapping[str, Sequence[int]]) -> None:
        self.corpus, self.folder, self.folds = corpus, Path(folder), folds

    def manifest(self) -> Manifest:
        """List the performances.

        Raises:
            DataNotFoundError: If the folder is not there.
            DataError: If none of its files is RAVDESS's.
        """
        if not self.folder.is_dir():
            raise DataNotFoundError(
                f"{self.folder}: no such folder; zenodo.org/records/1188976 has the recordings, say"
                " where they are with source.folder or paths.data"
            )
        paths = [p for p in self.folder.rglob("*") if p.suffix.lower() in SOUND | VIDEO]
        files = by_id(p for p in paths if not p.name.startswith("."))
        read = {name: performance(name) for name in files}
        names = {(p.modality, p.id): name for name, p in read.items() if p}
        found = sorted({p._replace(modality="") for p in read.values() if p})
        if not found:
            raise DataError(
                f"{self.folder}: no sound or film called 03-01-06-01-02-01-12, say, in it; give "
                "the folder of RAVDESS's actors as source.folder"
            )

        def first(clip: str, *modalities: str) -> str:
            return next((names[m, clip] for m in modalities if (m, clip) in names), "")

        clips = [
            raw_clip(
                p.id,
                p.video,
                text="no transcript",
                audio=span(files, first(p.id, "03", "01")),
                visual=span(files, first(p.id, "01", "02")),
            )
            for p in found
        ]
        strange = sorted(name for name, p in read.items() if p is None)
        return Manifest(
            corpus=self.corpus,
            synthetic=False,
            clips=clips,
            intervals=np.full((len(clips), 2), np.nan),
            splits=splits(found, self.folds),
            targets=labels(found),
            columns=COLUMNS,
            unmatched={"media that are not speech of RAVDESS": strange} if strange else {},
        )
