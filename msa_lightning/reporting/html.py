"""``report.html``: everything on one page that needs no network and no other file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is shown.
        value: What it is sorted by, if not the text; NaN stays last.
    """

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table that sorts when its head is clicked.

    Attributes:
        head: Names of the columns.
        rows: Cells.
        wide: Columns whose text may take several lines.
    """

    head: list[str]
    rows: list[list[Cell]]
    wide: tuple[str, ...] = ()


def summary_table(summary: pd.DataFrame, wide: pd.DataFrame) -> Table:
    """A summary: its cells in words, sorted by their means.

    Args:
        summary: From ``tables.summarise``.
        wide: From ``tables.cells``.
    """
    means = summary.pivot(index="group", columns="metric", values="mean")
    rows = []
    for group, texts in wide.iterrows():
        cells = [Cell(str(group)), Cell(texts["n"], float(texts["n"] or "nan"))]
        cells += [Cell(texts[m], _get(means, group, m)) for m in wide.columns.drop("n")]
        rows.append(cells)
    return Table([str(wide.index.name), *map(str, wide.columns)], rows, wide=("group",))


def plain_table(
    frame: pd.DataFrame, *, digits: int = 3, nan: str = "", wide: tuple[str, ...] = ()
) -> Table:
    """A frame without its index, as a table.

    Args:
        frame: Numbers, text and cells.
        digits: Decimals of a number.
        nan: What to say of one that is not there.
        wide: Columns whose text may take several lines.
    """
    columns = [frame[c] for c in frame]
    rows = [[_plain(value, digits, nan) for value in row] for row in zip(*columns, strict=True)]
    return Table([str(c) for c in frame], rows, wide)


def render(content: Mapping[str, Any]) -> str:
    """Fill the page; everything but figures is escaped."""
    environment = Environment(
        loader=PackageLoader("msa_lightning.reporting", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2")
    assert environment.loader is not None
    parts = {
        name: Markup(environment.loader.get_source(environment, name)[0])  # ours, not the data's
        for name in ("style.css", "sort.js")
    }
    return page.render(content, style=parts["style.css"], script=parts["sort.js"])


def _plain(value: Any, digits: int, nan: str) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, float | np.floating):
        return Cell(nan if np.isnan(value) else f"{value:.{digits}f}", float(value))
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return Cell(str(value), float(value))
    return Cell(str(value))


def _get(frame: pd.DataFrame, row: Any, column: Any) -> float:
    return float(frame.loc[row, column]) if column in frame and row in frame.index else np.nan
