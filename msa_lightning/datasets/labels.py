"""The labelled clips of a corpus: from a computational sequence of labels and the official folds.

A row of the labels of a video is a clip; its id is ``<video>_<n>``, where n is the row, counted
from `first_clip`, or the n of a key ``<video>[<n>]``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msa_lightning.datasets.csd import ComputationalSequence, split_key
from msa_lightning.errors import DataError, DataNotFoundError

FOLDS = {
    "train": "standard_train_fold",
    "valid": "standard_valid_fold",
    "test": "standard_test_fold",
}
_SHIPPED = Path(__file__).parent / "folds"
_TOLERANCE = 1e-5  # labels are means of ratings in float32


@dataclass(frozen=True)
class LabelColumns:
    """Some columns of the labels.

    Args:
        columns: Names of the K columns.
        low: Least value allowed.
        high: Greatest value allowed.
    """

    columns: list[str]
    low: float
    high: float


@dataclass(frozen=True)
class Labels:
    """N labelled clips, ordered by video id, then clip number.

    Attributes:
        ids: Clip ids, (N,) str.
        videos: Video ids, (N,) str.
        segments: n in the SDK's key ``<video>[<n>]`` of each clip, (N,) int.
        intervals: Start and end in seconds, (N, 2) float64.
        targets: Labels (N, K) float32 by target name.
    """

    ids: np.ndarray
    videos: np.ndarray
    segments: np.ndarray
    intervals: np.ndarray
    targets: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)


def read_labels(path: Path, targets: Mapping[str, LabelColumns], first_clip: int) -> Labels:
    """Read and check the labels of a corpus.

    Args:
        path: A .csd file whose columns are those of the targets, in order.
        targets: What the columns are, by target name.
        first_clip: Number of the first row of a video.

    Raises:
        DataNotFoundError: If there is no such file.
        DataError: If it is not such a file, or a label is NaN or out of range.
    """
    names = [column for target in targets.values() for column in target.columns]
    videos: list[str] = []
    numbers: list[int] = []
    segments: list[int] = []
    intervals: list[np.ndarray] = []
    values: list[np.ndarray] = []
    with ComputationalSequence(path) as sequence:
        for video, segment, key in sorted((*_order(key), key) for key in sequence.keys):
            rows = sequence.rows(key)
            where = f"{path}: {sequence.name}/data/{key}"
            if rows.words or rows.dim != len(names):
                raise DataError(
                    f"{where}: found {'words' if rows.words else f'{rows.dim} columns'}, expected "
                    f"the {len(names)} of source.targets ({', '.join(names)}); "
                    "correct source.targets or give another file"
                )
            if segment >= 0 and len(rows) != 1:
                raise DataError(
                    f"{where}: found {len(rows)} rows, expected 1 in a segment's labels"
                )
            labels = np.concatenate([np.empty((0, rows.dim)), *rows.read(0, len(rows))])
            _check(where, labels, targets)
            count = np.arange(len(rows))
            videos += [video] * len(rows)
            segments += (count if segment < 0 else count + segment).tolist()
            numbers += (count + first_clip if segment < 0 else count + segment).tolist()
            intervals.append(rows.intervals)
            values.append(labels)
    if not videos:
        raise DataError(f"{path}: {sequence.name}/data has no rows; get the file again")
    ids = np.array([f"{video}_{number}" for video, number in zip(videos, numbers, strict=True)])
    if len(set(ids.tolist())) < len(ids):
        twice = sorted({i for i in ids.tolist() if (ids == i).sum() > 1})
        raise DataError(f"{path}: labels of {twice[:3]} are there twice; remove one of each")
    matrix = np.concatenate(values).astype(np.float32)
    ends = np.cumsum([len(target.columns) for target in targets.values()])[:-1]
    return Labels(
        ids=ids,
        videos=np.array(videos),
        segments=np.array(segments),
        intervals=np.concatenate(intervals),
        targets=dict(zip(targets, np.split(matrix, ends, axis=1), strict=True)),
    )


def read_folds(name: str) -> dict[str, list[str]]:
    """Read official folds: the video ids of train, valid and test.

    Args:
        name: ``mosei`` for the folds shipped with the package, or a json file in the SDK's form.

    Raises:
        DataNotFoundError: If there is no such file.
        DataError: If the file is not of that form, or a video is in two folds.
    """
    path = Path(name) if Path(name).suffix else _SHIPPED / f"{name}.json"
    if not path.is_file():
        shipped = sorted(p.stem for p in _SHIPPED.glob("*.json"))
        raise DataNotFoundError(
            f"{path}: not found; source.folds takes a json file, or one of {shipped}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        folds = {split: list(map(str, content[fold])) for split, fold in FOLDS.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected an object with the lists {', '.join(FOLDS.values())} of video ids "
            f"({type(error).__name__}: {error}); give another file as source.folds"
        ) from error
    of: dict[str, str] = {}
    for split, ids in folds.items():
        for video in ids:
            if of.setdefault(video, split) != split:
                raise DataError(
                    f"{path}: video {video} is in {FOLDS[of[video]]} and {FOLDS[split]}, expected "
                    "one fold for each; remove it from one"
                )
    return folds


def assign_splits(labels: Labels, folds: Mapping[str, list[str]], name: str) -> np.ndarray:
    """Give each clip its split, (N,) str: train, valid, test, or none.

    Raises:
        DataError: If a fold has no labelled clip at all.
    """
    of = {video: split for split, ids in folds.items() for video in ids}
    splits = np.array([of.get(video, "none") for video in labels.videos.tolist()])
    for split, ids in folds.items():
        if split not in splits:
            raise DataError(
                f"{name}: none of the {len(ids)} videos of {FOLDS[split]} is labelled "
                f"(fold: {list(ids[:2])}; labels: {sorted(set(labels.videos.tolist()))[:2]}); "
                "give the folds of this corpus as source.folds"
            )
    return splits


def _order(key: str) -> tuple[str, int]:
    video, segment = split_key(key)
    return video, -1 if segment is None else segment


def _check(where: str, labels: np.ndarray, targets: Mapping[str, LabelColumns]) -> None:
    low = np.array([t.low for t in targets.values() for _ in t.columns])
    high = np.array([t.high for t in targets.values() for _ in t.columns])
    names = [(name, column) for name, t in targets.items() for column in t.columns]
    inside = (labels >= low - _TOLERANCE) & (labels <= high + _TOLERANCE)  # false for NaN
    if inside.all():
        return
    row, column = np.argwhere(~inside)[0]
    target, name = names[column]
    raise DataError(
        f"{where}/features: row {row}, column {column} ({name}) is {labels[row, column]:g}, "
        f"expected a number from {low[column]:g} to {high[column]:g}; correct the row or remove "
        f"it, or set source.targets.{target}.low and .high if the scale is another one"
    )
