"""The closing audit of a prepared file: what is in it, what is missing, what is odd."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from msa_lightning.datasets.aggregate import NonFinite
from msa_lightning.datasets.hdf5 import ClipTable

SPLITS = ("train", "valid", "test", "none")


class Extremes:
    """Least and greatest value of each column, over all clips.

    Args:
        dim: Feature size D.
    """

    def __init__(self, dim: int) -> None:
        self.low = np.full(dim, np.nan, np.float32)
        self.high = np.full(dim, np.nan, np.float32)

    def update(self, values: np.ndarray) -> None:
        """Look at some rows (R, D); NaN does not count."""
        if len(values):
            self.low = np.fmin(self.low, np.fmin.reduce(values))
            self.high = np.fmax(self.high, np.fmax.reduce(values))


def make_audit(
    table: ClipTable,
    nonfinite: Mapping[str, NonFinite],
    extremes: Mapping[str, Extremes],
    folds: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Summarise a prepared file; what is returned can be written as JSON.

    Args:
        table: All but the features.
        nonfinite: Counts per column, by modality.
        extremes: Least and greatest values, by modality.
        folds: Video ids of train, valid and test.
    """
    labelled = set(table.videos.tolist())
    none = table.splits == "none"
    return {
        "corpus": table.corpus,
        "aggregate": table.aggregate,
        "synthetic": table.synthetic,
        "splits": {s: _split(table, table.splits == s) for s in SPLITS}
        | {"all": _split(table, np.full(len(table.ids), True))},
        "modalities": {
            m: {
                "columns": dim,
                "frames": int(table.frames[m].sum()),
                "missing_clips": int((table.frames[m] == 0).sum()),
                "nan": int(nonfinite[m].nan.sum()),
                "inf": int(nonfinite[m].inf.sum()),
                "columns_with_nan": np.flatnonzero(nonfinite[m].nan).tolist(),
                "columns_with_inf": np.flatnonzero(nonfinite[m].inf).tolist(),
                "constant_columns": np.flatnonzero(extremes[m].low == extremes[m].high).tolist(),
                "never_measured_columns": np.flatnonzero(np.isnan(extremes[m].low)).tolist(),
            }
            for m, dim in table.dims.items()
        },
        "labels_in_no_fold": {
            "clips": int(none.sum()),
            "videos": sorted(set(table.videos[none].tolist())),
        },
        "fold_videos_without_labels": {
            split: sorted(set(ids) - labelled) for split, ids in folds.items()
        },
    }


def _split(table: ClipTable, clips: np.ndarray) -> dict[str, Any]:
    labels = {
        column: table.targets[name][clips, k].astype(np.float64)
        for name, columns in table.columns.items()
        for k, column in enumerate(columns)
    }
    count = int(clips.sum())
    return {
        "clips": count,
        "videos": len(set(table.videos[clips].tolist())),
        "missing_rate": {
            m: float((frames[clips] == 0).mean()) if count else None
            for m, frames in table.frames.items()
        },
        "labels": {
            column: {
                "mean": float(values.mean()) if count else None,
                "sd": float(values.std(ddof=1)) if count > 1 else None,
            }
            for column, values in labels.items()
        },
    }


def show_audit(audit: Mapping[str, Any], console: Console) -> None:
    """Print an audit as tables that fit into 80 columns."""
    modalities, splits = audit["modalities"], audit["splits"]
    note = " (synthetic)" if audit["synthetic"] else ""

    missing = [f"no {m}" for m in modalities]
    table = _table(f"{audit['corpus']}{note}: clips", "split", "clips", "videos", *missing)
    for name, split in splits.items():
        rates = [_percent(split["missing_rate"][m]) for m in modalities]
        table.add_row(name, f"{split['clips']:,}", f"{split['videos']:,}", *rates)
    console.print(table, "")

    table = _table(
        "features in the clips", "modality", "columns", "frames", "NaN", "inf", "constant columns"
    )
    for m, numbers in modalities.items():
        constant = numbers["constant_columns"] + numbers["never_measured_columns"]
        counts = [f"{numbers[key]:,}" for key in ("columns", "frames", "nan", "inf")]
        table.add_row(m, *counts, f"{len(constant)}{_some(sorted(constant))}")
    console.print(table, "")

    table = _table("labels: mean±sd", "column", *splits)
    for column in splits["all"]["labels"]:
        cells = [split["labels"][column] for split in splits.values()]
        table.add_row(column, *[_spread(cell["mean"], cell["sd"]) for cell in cells])
    console.print(table, "")

    outside = audit["labels_in_no_fold"]
    console.print(
        f"in no fold: clips {outside['clips']:,}, videos {len(outside['videos']):,}"
        f"{_some(outside['videos'])}",
        highlight=False,
    )
    for split, ids in audit["fold_videos_without_labels"].items():
        if ids:
            console.print(
                f"in the {split} fold, without labels: videos {len(ids):,}{_some(ids)}",
                highlight=False,
            )


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f} %"


def _spread(mean: float | None, sd: float | None) -> str:
    return "-" if mean is None else f"{mean:.2f}±{'-' if sd is None else f'{sd:.2f}'}"


def _some(items: list[Any]) -> str:
    """Show the first three in brackets, if there are any."""
    more = ", ..." if len(items) > 3 else ""
    return f" ({', '.join(map(str, items[:3]))}{more})" if items else ""
