"""Labels as a csv: one line per clip, columns called as their owners call them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from msa_lightning.errors import DataError

MOSI_COLUMNS = {  # what MMSA, and lists of the original release, call ours
    "video": ("video_id",),
    "clip": ("clip_id", "clip"),
    "label": ("label",),
    "text": ("text",),
    "split": ("mode", "split"),
    "start": ("start",),
    "end": ("end",),
}


class LabelledClip(NamedTuple):
    """A labelled clip; start and end are NaN where unknown."""

    id: str
    video: str
    clip: str
    label: float
    text: str | None
    split: str
    start: float
    end: float


def read_label_csv(path: Path, names: Mapping[str, Sequence[str]]) -> list[LabelledClip]:
    """Read the labels, in the order of videos and clip numbers.

    Args:
        path: The csv, with a head.
        names: What each attribute of :class:`LabelledClip` may be called; video, clip and label
            have to be there.

    Raises:
        DataError: If it is no such file, a number is wrong, or a clip is there twice.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: not a csv file in UTF-8 ({error}); save it as one") from error
    columns: dict[str, list[str]] = {}
    for name, candidates in names.items():
        found = next((c for c in candidates if c in table.columns), None)
        if found:
            columns[name] = table[found].tolist()
        elif name in ("video", "clip", "label"):
            expected, have = " or ".join(candidates), list(table.columns)
            raise DataError(f"{path}: no column {expected}, found {have}; rename it")
    rows = []
    for i in range(len(table)):
        row = {name: values[i] for name, values in columns.items()}
        number = {
            name: _number(row.get(name, ""), f"{path}: line {i + 2}, {name}", *limits)
            for name, limits in (("label", (-3, 3)), ("start", ()), ("end", ()))
        }
        rows.append(
            LabelledClip(
                id=clip_id(row["video"], row["clip"]),
                video=row["video"],
                clip=row["clip"],
                text=row.get("text"),
                split=row.get("split") or "none",
                **number,
            )
        )
    if twice := [i for i, n in Counter(row.id for row in rows).items() if n > 1]:
        raise DataError(f"{path}: labels of {twice[:3]} are there twice; remove one of each")
    return sorted(rows, key=lambda row: (row.video, len(row.clip), row.clip))


def _number(text: str, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A number of the csv, NaN where a time is empty."""
    if not text and high == math.inf:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise DataError(
            f"{where} is '{text}', expected a number from {low:g} to {high:g}; correct the line"
        )
    return value


def clip_id(video: str, clip: str) -> str:
    """``<video>_<clip>``, with slashes made harmless."""
    return f"{video}_{clip}".replace("/", "%2F")
