"""Figures of a report: results, learning curves, fit, confusion. Each takes frames, not runs.

Text and axes are drawn in one colour, which :func:`svg` replaces by ``currentColor``: a figure
inside a page takes the page's colour of text, light or dark.
"""

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from msa_lightning.records import write
from msa_lightning.reporting.stats import FloatArray

_INK = "#010203"
_STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "legend.labelcolor"), _INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.facecolor": "none",
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found and copied
    "svg.hashsalt": "msa-report",  # the same runs give the same file
    "text.parse_math": False,
}
_ACROSS = 4  # panels side by side

Frames = Mapping[str, pd.DataFrame]
"""Labels and predictions by group, as ``Runs.predictions`` gives them."""


def draw_results(summary: pd.DataFrame, table: pd.DataFrame, groups: Sequence[str]) -> Figure:
    """Draw mean and interval of every group, each seed as a dot, the mean predictor as a line.

    Args:
        summary: From ``tables.summarise``, one or more metrics.
        table: ``Runs.table``.
        groups: Which to draw, from above.
    """
    metrics = list(summary["metric"].unique())
    rows = summary.set_index(["group", "metric"])
    with _figure(len(metrics), height=0.9 + 0.32 * len(groups), width=3.2) as (figure, grid):
        for axes, metric in zip(grid, metrics, strict=False):
            for y, group in enumerate(groups):
                row, seeds = rows.loc[(group, metric)], table.loc[table["group"] == group, metric]
                axes.plot([row["low"], row["high"]], [y, y], color="C0", linewidth=2)
                axes.plot(row["mean"], y, "o", color="C0", markersize=6)
                axes.plot(seeds, [y + 0.25] * len(seeds), ".", color="C1", markersize=5)
            if ("mean predictor", metric) in rows.index:
                axes.axvline(rows.loc[("mean predictor", metric), "mean"], color="C7", ls="--")
            axes.set_yticks(range(len(groups)), [_wrapped(group) for group in groups])
            axes.set_ylim(len(groups) - 0.5, -0.5)
            axes.set_title(metric)
            if axes is not grid[0] and len(metrics) <= _ACROSS:
                axes.tick_params(labelleft=False)
    return figure


def draw_curves(
    summary: pd.DataFrame, setting: str, curves: Mapping[str, Mapping[float, str]]
) -> Figure:
    """Draw mean and interval over a numeric setting.

    Args:
        summary: From ``tables.summarise``, one or more metrics.
        setting: Its name.
        curves: By name of the curve, its groups by value of the setting.
    """
    metrics = list(summary["metric"].unique())
    rows = summary.set_index(["group", "metric"])
    with _figure(len(metrics), height=2.5, width=3.2) as (figure, grid):
        for axes, metric in zip(grid, metrics, strict=False):
            for number, (name, groups) in enumerate(curves.items()):
                points = rows.loc[[(group, metric) for group in groups.values()]]
                x, colour = list(groups), f"C{number}"
                axes.plot(x, points["mean"], "o-", color=colour, label=name)
                axes.vlines(x, points["low"], points["high"], color=colour, linewidth=2, alpha=0.5)
            if ("mean predictor", metric) in rows.index:
                axes.axhline(rows.loc[("mean predictor", metric), "mean"], color="C7", ls="--")
            axes.set(xlabel=setting, title=metric)
        _legend(figure, grid[0])
    return figure


def draw_learning(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Figure | None:
    """Draw losses and metrics by epoch: the mean of the seeds that still train, and their range.

    Args:
        histories: By group, one frame per seed; columns are ``train/loss``, ``valid/mae``, …

    Returns:
        The figure, or None if no run has a history.
    """
    columns = dict.fromkeys(c for hs in histories.values() for h in hs for c in h.columns)
    splits = [s for s in ("train", "valid") if any(c.startswith(f"{s}/") for c in columns)]
    found = dict.fromkeys(c.split("/")[1] for c in columns if c.split("/")[0] in splits)
    names = [name for name in found if not name.startswith("loss_")][:_ACROSS]
    panels = [f"{split}/{name}" for split in splits for name in names]
    if not panels:
        return None
    with _figure(len(panels), height=2.3, across=len(names)) as (figure, grid):
        for axes, panel in zip(grid, panels, strict=False):
            for number, (group, runs) in enumerate(histories.items()):
                if own := [h[panel].rename(str(i)) for i, h in enumerate(runs) if panel in h]:
                    seeds = pd.concat(own, axis=1).sort_index()
                    x, low, high = seeds.index, seeds.min(axis=1), seeds.max(axis=1)
                    axes.plot(x, seeds.mean(axis=1), label=group, color=f"C{number}")
                    axes.fill_between(x, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
            axes.set_title(panel)
            axes.set_xlabel("epoch")
        _legend(figure, grid[0])
    return figure


def draw_fit(frames: Frames) -> Figure:
    """Draw predicted against true values, and the residuals against what was predicted.

    All seeds' values are drawn. The line through the residuals is their mean in tenths of the
    predictions; the dashed line in the upper panels is the mean predictor.
    """
    low, high = _limits(frames)
    reach = 1.05 * max(np.abs(np.subtract(*_pooled(frame))).max() for frame in frames.values())
    with _figure(len(frames), height=4.6, rows=2) as (figure, grid):
        for number, (group, frame) in enumerate(frames.items()):
            upper, lower = grid[2 * number : 2 * number + 2]
            label, p = _pooled(frame)
            upper.plot([low, high], [low, high], color=_INK, linewidth=0.7)
            if frame["mean"].notna().all():
                upper.axhline(frame["mean"].iloc[0], color="C7", ls="--", linewidth=1)
            lower.axhline(0, color=_INK, linewidth=0.7)
            for axes, x, y in ((upper, label, p), (lower, p, p - label)):
                axes.scatter(x, y, s=4, alpha=0.3, linewidths=0, color="C0", rasterized=True)
            order = np.array_split(np.argsort(p, kind="stable"), 10)
            means = [(p[i].mean(), (p - label)[i].mean()) for i in order if len(i)]
            lower.plot(*zip(*means, strict=True), color="C1", linewidth=1.5)
            upper.set(xlim=(low, high), ylim=(low, high), xlabel="true", title=_wrapped(group))
            lower.set(xlim=(low, high), ylim=(-reach, reach), xlabel="predicted")
            if number % _ACROSS == 0:
                upper.set_ylabel("predicted")
                lower.set_ylabel("predicted - true")
    return figure


def draw_confusion(frames: Frames, classes: range, names: Sequence[str] | None = None) -> Figure:
    """Draw how often each true class was predicted as which, in percent of the true class.

    Args:
        frames: With values in classes already.
        classes: The classes, in order.
        names: What they are called.
    """
    names = names or [f"{c:g}" for c in classes]
    with _figure(len(frames), height=2.7) as (figure, grid):
        for number, (axes, (group, frame)) in enumerate(zip(grid, frames.items(), strict=False)):
            truth, p = _pooled(frame)
            counts = pd.crosstab(truth, p).reindex(index=classes, columns=classes, fill_value=0)
            totals = counts.to_numpy().sum(axis=1, keepdims=True)
            share = 100 * counts.to_numpy() / np.maximum(totals, 1)  # a class that never occurs: 0
            axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
            for i, j in np.ndindex(share.shape) if len(classes) <= 10 else ():
                colour = "white" if share[i, j] > 50 else "black"
                text = f"{share[i, j]:.0f}" if totals[i] else "none"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=7)
            axes.set_xticks(range(len(classes)), names, rotation=90 * (max(map(len, names)) > 2))
            axes.set_yticks(range(len(classes)), names)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set(xlabel="predicted", title=_wrapped(group))
            if number % _ACROSS == 0:
                axes.set_ylabel("true")
    return figure


def svg(figure: Figure) -> str:
    """A figure as an svg element whose text and axes have the colour of the text around it."""
    file, unsaid = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(_STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    figure.set_layout_engine("none")  # what was found once holds: it is most of the work
    text = file.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def save(figure: Figure, drawing: str, stem: Path) -> None:
    """Write ``<stem>.svg``, what :func:`svg` returned, and ``<stem>.png``, both on white."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    alone = drawing.replace("<svg ", '<svg style="background: white; color: black" ', 1)
    picture = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(picture, format="png", dpi=150, facecolor="white")
    for ending, content in (("svg", alone.encode()), ("png", picture.getvalue())):
        write(stem.with_name(f"{stem.name}.{ending}"), content)


@contextmanager
def _figure(
    panels: int, *, height: float, width: float = 2.5, rows: int = 1, across: int = _ACROSS
) -> Iterator[tuple[Figure, list[Any]]]:
    """A figure with a grid of panels, each of ``rows`` axes, one below the other.

    Args:
        panels: How many.
        height: Of a panel, in inches.
        width: Of a panel, in inches.
        rows: Axes of each panel.
        across: Panels side by side.

    Yields:
        The figure, and the axes of the first panel, then those of the second, …
    """
    columns, down = min(panels, across), -(-panels // across)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width * columns + 0.8, height * down + 0.2), layout="constrained")
        grid = figure.subplots(down * rows, columns, squeeze=False)
        ordered = grid.reshape(down, rows, columns).transpose(0, 2, 1).reshape(-1, rows)
        for unused in ordered[panels:].flat:
            unused.remove()
        yield figure, list(ordered[:panels].flat)


def _legend(figure: Figure, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), _ACROSS))


def _pooled(frame: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Labels and predictions of all seeds, (S · N,) each."""
    seeds = frame.drop(columns=["label", "mean"])
    predictions = seeds.to_numpy().T.ravel()
    labels = np.tile(frame["label"].to_numpy(), seeds.shape[1])
    known = ~np.isnan(predictions)
    return labels[known], predictions[known]


def _limits(frames: Frames) -> tuple[float, float]:
    values = [frame.drop(columns="mean").to_numpy() for frame in frames.values()]
    low, high = min(map(np.nanmin, values)), max(map(np.nanmax, values))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _wrapped(text: str) -> str:
    return textwrap.fill(textwrap.shorten(text, 78, placeholder="…"), 26)
