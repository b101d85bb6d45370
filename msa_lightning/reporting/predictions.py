"""Scores of raw video: on the terminal, as csv and json, and as timelines."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from msa_lightning import MODALITIES
from msa_lightning.records import write_json
from msa_lightning.run import LoadedRun

log = logging.getLogger(__name__)


def write_predictions(scores: pd.DataFrame, run: LoadedRun, out: Path) -> None:
    """Write ``scores.csv``, ``scores.json``, and csv and picture of every file that was cut.

    Args:
        scores: What :func:`msa_lightning.predict.predict` returns.
        run: The run that gave them.
        out: Folder to write to.
    """
    out.mkdir(parents=True, exist_ok=True)
    _write_csv(scores, out / "scores.csv")
    rows = json.loads(scores.to_json(orient="records"))
    provenance = run.provenance
    about = {
        "run": str(run.dir),
        "synthetic": provenance["data"]["synthetic"],
        "extractors": provenance["data"]["extractors"],
        "clips": [{key: value for key, value in row.items() if value != ""} for row in rows],
    }
    write_json(out / "scores.json", about)
    for video, part in scores.groupby("video"):
        if part["id"].nunique() > 1:
            _write_csv(part, out / f"{video}.timeline.csv")
            draw_timeline(part, out / f"{video}.timeline.png", synthetic=about["synthetic"])


def draw_timeline(scores: pd.DataFrame, path: Path, *, synthetic: bool) -> None:
    """Draw the score and the contributions of the clips of one file over its time."""
    from matplotlib.figure import Figure

    contributed = [m for m in MODALITIES if f"contribution_{m}" in scores]
    figure = Figure(figsize=(10, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for (target, component), part in scores.groupby(["target", "component"]):
        label = _of(part.iloc[0]) if scores["component"].max() else target
        for number, (_, row) in enumerate(part.iterrows()):
            interval: list[Any] = [row["start"], row["end"]]
            colour = f"C{component}"
            once = str(label) if number == 0 else None
            upper.plot(interval, [row["score"]] * 2, color=colour, linewidth=4, label=once)
            if row["class"]:
                upper.annotate(row["class"], (row["start"], row["score"]), va="bottom")
    first = scores[(scores["target"] == scores["target"].iloc[0]) & (scores["component"] == 0)]
    middle, width = (first["start"] + first["end"]) / 2, (first["end"] - first["start"]) / 4
    for i, m in enumerate(contributed):
        lower.bar(middle + (i - 1) * width, first[f"contribution_{m}"], width * 0.9, label=m)
    note = " (model trained on synthetic data)" if synthetic else ""
    upper.set_title(f"{scores['video'].iloc[0]}{note}", parse_math=False)
    upper.set_ylabel("score")
    lower.set_ylabel("contribution")
    lower.set_xlabel("seconds")
    for axes in (upper, lower):
        axes.axhline(0, color="grey", linewidth=0.5)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper right", ncols=3)
    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary, dpi=120)
    temporary.replace(path)


def show_predictions(scores: pd.DataFrame, run: LoadedRun, out: Path) -> None:
    """Print a line per clip: score, contributions, and what was missing and why."""
    modalities = [m for m in MODALITIES if f"missing_{m}" in scores]
    table = Table("clip", "seconds", title="score = with everything; others: what it loses without")
    several = scores["target"].nunique() > 1 or scores["component"].max() > 0
    for name in [*(["target"] if several else []), "score", *modalities]:
        table.add_column(name, justify="right")
    for _, row in scores.iterrows():
        cells = [escape(row["id"]), _seconds(row["start"], row["end"])]
        if several:
            cells.append(_of(row))
        cells.append(_score(row))
        cells += [row[f"missing_{m}"] or _contribution(row, m) for m in modalities]
        table.add_row(*cells)
    Console().print(table)
    synthetic = " (a run on synthetic data)" if run.provenance["data"]["synthetic"] else ""
    log.info("%s%s: scores.csv, scores.json in %s", run.dir, synthetic, out)


def _of(row: pd.Series) -> str:
    """The target, and which of its components."""
    return f"{row['target']} {row['name']}".strip()


def _contribution(row: pd.Series, modality: str) -> str:
    return "" if row["class"] else _number(row[f"contribution_{modality}"])


def _score(row: pd.Series) -> str:
    return row["class"] or _number(row["score"], sign=False)


def _seconds(start: float, end: float) -> str:
    return "" if math.isnan(end) else f"{start:.1f}-{end:.1f}"


def _number(value: float, *, sign: bool = True) -> str:
    return "none" if math.isnan(value) else f"{value:{'+' if sign else ''}.2f}"


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    table.to_csv(temporary, index=False)
    temporary.replace(path)
