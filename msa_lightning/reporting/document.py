"""From runs, and what was found in them, to ``report.html``, its figures and the clips as csv."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from msa_lightning.errors import DataError
from msa_lightning.metrics import acc7
from msa_lightning.objective import Objective
from msa_lightning.records import write
from msa_lightning.reporting import clips, html, plots, tables
from msa_lightning.reporting.collect import Runs


@dataclass(frozen=True)
class Findings:
    """What ``msa-report`` has computed.

    Attributes:
        runs: From ``collect``.
        summary: From ``tables.summarise``.
        comparisons: From ``tables.compare``.
        adapters: From ``adapters.summarise``.
        notes: How to read the table, and what speaks against trusting it.
        transcripts: What is said, by clip; None to look into the runs' data.
    """

    runs: Runs
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    adapters: pd.DataFrame
    notes: Sequence[str]
    transcripts: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Wanted:
    """What of it the page shows.

    Attributes:
        title: Of the page.
        metrics: Which are drawn.
        split: Whose clips are shown; None for none.
        groups: How many are drawn at most.
        reference: A group that is drawn in any case; None for no such.
        clips: How many are listed at most.
    """

    title: str
    metrics: Sequence[str]
    split: str | None
    groups: int
    reference: str | None
    clips: int


@dataclass(frozen=True)
class View:
    """Labels and predictions of one component of a target.

    Attributes:
        name: The target and, if it has several, the component.
        target: The target.
        component: Number of the component.
        classes: Names of the classes; None if these are numbers.
        frames: By group: index id, columns as ``Runs.predictions`` gives them.
    """

    name: str
    target: str
    component: int
    classes: Sequence[str] | None
    frames: dict[str, pd.DataFrame]


def write_page(found: Findings, wanted: Wanted, out: Path) -> None:
    """Write ``report.html``, ``figures/*.svg`` and ``.png``, and ``clips_*.csv`` into a folder."""
    runs, notes = found.runs, list(found.notes)
    groups, drawn = choose(runs, wanted.groups, wanted.reference)
    said = clips.transcripts(runs, groups) if found.transcripts is None else found.transcripts
    summary = found.summary[found.summary["metric"].isin(wanted.metrics)]
    results = plots.draw_results(summary, runs.table, groups) if len(summary) else None
    over = [
        {"setting": key, "drawing": _keep(plots.draw_curves(summary, key, c), out, f"over_{key}")}
        for key, c in curves(runs).items()
        if len(summary)
    ]
    learning = plots.draw_learning({group: _histories(runs, group) for group in groups})
    failed = pd.DataFrame(
        [(str(folder), reason) for folder, reason in runs.left_out.items()],
        columns=["folder", "reason"],
    )
    content = {
        "title": wanted.title,
        "counts": f"{len(runs.table)} runs in {len(runs.groups)} groups",
        "synthetic": bool(runs.table["synthetic"].any()),
        "drawn": drawn,
        "results": html.summary_table(found.summary, tables.cells(found.summary, gap="\n")),
        "results_figure": _keep(results, out, "results"),
        "over": over,
        "settings": html.plain_table(differences(runs, groups)),
        "claims": _claims(found.comparisons),
        "comparisons": html.plain_table(_comparisons(found.comparisons), nan="undefined"),
        "adapters": html.plain_table(found.adapters, wide=("group",)),
        "learning": _keep(learning, out, "learning"),
        "views": [_show(v, runs, wanted, said, out) for v in _views(runs, groups, wanted, notes)],
        "failed": html.plain_table(failed, wide=("folder", "reason")),
        "missing": clips.missing_seeds(runs),
        "runs": html.plain_table(runs.table, digits=4),
    }
    write(out / "report.html", html.render(content | {"notes": notes}))


def choose(runs: Runs, most: int, reference: str | None) -> tuple[list[str], str]:
    """Which groups are drawn, and why not all of them.

    They are selected on validation, where the runs have been scored on it.
    """
    groups = runs.groups
    if len(groups) <= most:
        return groups, ""
    objective = runs.loaded[0].objective
    metric = f"valid/{objective.monitor}"
    if metric in runs.metrics:
        means = runs.table.groupby("group", sort=False)[metric].mean()
        best = means.sort_values(ascending=objective.mode == "min").index[:most].tolist()
        why = f"the {most} with the best {metric}"
    else:
        best, why = groups[:most], f"the first {most}"
    if reference and reference not in best:
        best[-1:] = [reference]
        why += f" and {reference}" if most > 1 else ""
    return [g for g in groups if g in best], f"Of {len(groups)} groups {why} are shown here."


def curves(runs: Runs) -> dict[str, dict[str, dict[float, str]]]:
    """Numeric settings in which three or more groups differ that are equal in all others.

    Returns:
        By setting, and by the shortest name among the groups of a curve, its groups by value.
    """
    found: dict[str, dict[str, dict[float, str]]] = {}
    settings = runs.settings.loc[:, ~runs.settings.map(repr).T.duplicated()]  # copies once
    for key, values in settings.items():
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            continue
        others = [repr(row) for row in settings.drop(columns=[key]).to_numpy().tolist()]
        for _, alike in values.groupby(others, sort=False):
            if alike.nunique() > 2:
                ordered = {float(v): str(group) for group, v in alike.sort_values().items()}
                found.setdefault(str(key), {})[min(ordered.values(), key=len)] = ordered
    return found


def differences(runs: Runs, groups: Sequence[str]) -> pd.DataFrame:
    """Settings that differ between groups: a row per setting, a column per group, copies once."""
    settings = runs.settings.loc[list(groups)].T
    differing = settings[settings.map(repr).nunique(axis=1) > 1]
    told = differing[~differing.map(repr).duplicated()]
    return told.map(_words).reset_index(names="setting")


def _words(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _keep(figure: Figure | None, out: Path, name: str) -> Markup | None:
    """Write a figure, and return it for the page."""
    if figure is None:
        return None
    drawing = plots.svg(figure)
    plots.save(figure, drawing, out / "figures" / name)
    return Markup(drawing)  # matplotlib has escaped what is text


def _histories(runs: Runs, group: str) -> list[pd.DataFrame]:
    histories = []
    for run in runs.of(group):
        try:
            histories.append(run.history)
        except (OSError, ValueError):  # absent, as after msa-transfer, or damaged
            continue
    return histories


def _comparisons(comparisons: pd.DataFrame) -> pd.DataFrame:
    if comparisons.empty:
        return pd.DataFrame()
    shown = comparisons.drop(columns=["p", "p_holm"]).rename(columns={"reference": "against"})
    shown["p (Holm)"] = pd.Series([html.Cell(tables.p_value(p), p) for p in comparisons["p_holm"]])
    shown["verdict"] = [tables.verdict(comparison) for _, comparison in comparisons.iterrows()]
    return shown


def _claims(comparisons: pd.DataFrame) -> str:
    if comparisons.empty:
        return ""
    tested = comparisons["p"].notna()
    different = (comparisons["p_holm"] < 0.05).sum()
    return (
        f"{tested.sum()} of {len(comparisons)} comparisons could be tested; {different} of them "
        "show a difference (p < .05 after Holm's correction for all of them)."
    )


def _views(runs: Runs, groups: Sequence[str], wanted: Wanted, notes: list[str]) -> Iterator[View]:
    """What was predicted, target by target; ``notes`` gets what could not be read."""
    if wanted.split is None:
        return
    targets = {g: runs.of(g)[0].objective.targets for g in groups}
    for target in dict.fromkeys(t for named in targets.values() for t in named):
        frames = {}
        for group in (g for g in groups if target in targets[g]):
            try:
                frames[group] = runs.predictions(group, wanted.split, target)
            except DataError as error:
                notes.append(f"{group}: {target} is not shown: {error}")
        components = sorted({c for f in frames.values() for c in f.index.unique("component")})
        kind = next(named[target] for named in targets.values() if target in named)
        for component in components:
            own = {g: clips.of_component(f, component) for g, f in frames.items()}
            name = target
            if kind.components > 1:
                name += f" {kind.names[component] if kind.names else component}"
            classes = kind.names if kind.components < kind.size else None
            labelled = {g: f for g, f in own.items() if len(f)}
            yield View(name, target, component, classes, labelled)


def _show(
    view: View, runs: Runs, wanted: Wanted, said: Mapping[str, str], out: Path
) -> dict[str, Any]:
    """The part of the page about one view."""
    assert wanted.split is not None
    stem = view.name.replace(" ", "_").replace("/", "_")
    alone = clips.single_modalities(runs, view.frames, wanted.split, view.target, view.component)
    classes = _objective(view, runs).targets[view.target].classes is not None
    table = clips.tabulate(runs, view.frames, alone, classes=classes)
    if view.classes:
        names = dict(enumerate(view.classes))
        for column in [c for c in table if c not in ("error", "disagreement")]:
            table[column] = table[column].map(names)
    if said:
        place = list(table).index(next(iter(view.frames)))
        table.insert(place, "transcript", [said.get(clip, "") for clip in table.index])
    write(out / f"clips_{stem}.csv", table.to_csv(index_label="clip"))
    about = f"error: of {clips.fullest(runs, view.frames)}."
    if len(alone) > 1:
        about = f"disagreement: between {', '.join(alone)}; {about}"
    if len(table) > wanted.clips:
        about += f" Listed are {wanted.clips} of {len(table)} clips; clips_{stem}.csv has all."
    listed = table[: wanted.clips].reset_index(names="clip")
    return {
        "name": f"{view.name}, {wanted.split}",
        "figures": [
            {"heading": heading, "drawing": _keep(figure, out, f"{kind}_{stem}"), "caption": text}
            for kind, heading, figure, text in _draw(view, runs)
        ],
        "about": about,
        "clips": html.plain_table(listed, digits=0 if classes else 2, wide=("transcript",)),
    }


def _objective(view: View, runs: Runs) -> Objective:
    return runs.of(next(iter(view.frames)))[0].objective


def _draw(view: View, runs: Runs) -> Iterator[tuple[str, str, Figure, str]]:
    """Name, heading, drawing and caption of each figure that suits a target."""
    objective = _objective(view, runs)
    target = objective.targets[view.target]
    percent = "Percent of each true class, all seeds together"
    if target.classes:
        figure = plots.draw_confusion(view.frames, range(target.classes), view.classes)
        yield "confusion", "Confusion", figure, f"{percent}."
        return
    figure = plots.draw_fit(view.frames)
    yield (
        "fit",
        "Predicted against true",
        figure,
        (
            "Every clip and seed. Below, what is left; the line is its mean in tenths of the "
            "predictions. The dashed line is the mean predictor."
        ),
    )
    if acc7 in objective.metrics.get(view.target, {}).values():
        classes = {group: frame.clip(-3, 3).round() for group, frame in view.frames.items()}
        figure = plots.draw_confusion(classes, range(-3, 4))
        yield "confusion", "Confusion", figure, f"{percent}, in the seven classes of acc7."
