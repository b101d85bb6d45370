"""Runs → a summary and comparisons, as data frames and in words.

A value that does not exist (the correlation of a constant) is NaN in a frame and "undefined" in
words. What nobody measured (an interval of a loss) is NaN too, and left out in words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from msa_lightning.errors import DataError
from msa_lightning.reporting import stats
from msa_lightning.reporting.collect import Runs

MEAN_PREDICTOR = "mean predictor"
CHANCE = "chance"
_GUESSES = 1000


@dataclass(frozen=True)
class Score:
    """A metric of a group.

    Attributes:
        seeds: Of each seed on the clips as they are, (S,).
        replicates: Averaged over seeds, in each resample of the clips, (R,).
        labels: The labels by clip; two scores are comparable where these are the same.
        clusters: How many videos, or clips, were resampled.
    """

    seeds: stats.FloatArray
    replicates: stats.FloatArray
    labels: pd.Series
    clusters: int


Scores = dict[tuple[str, str], Score]
"""By group and metric."""


def bootstrap(
    runs: Runs, metrics: Sequence[str], *, by: str, resamples: int, seed: int
) -> tuple[Scores, Scores, list[str]]:
    """Score every group, and the mean predictor on its clips, in the same resamples.

    Losses are left out, for they are means over batches; and so is the training split, whose clips
    were learnt.

    Args:
        runs: From ``collect``.
        metrics: ``<split>/<metric>``.
        by: ``video`` resamples whole videos, ``clip`` single clips as if they were independent.
        resamples: R.
        seed: Of the drawing.

    Returns:
        The groups' scores, the mean predictor's, and the reasons why some are not there.
    """
    groups, baselines, reasons = Scores(), Scores(), []
    samples: list[_Sample] = []
    for group in runs.groups:
        frames: dict[tuple[str, str], pd.DataFrame] = {}
        for metric in metrics:
            split, found = metric.split("/")[0], runs.function(group, metric)
            if found is None or split == "train":
                continue
            target, convention = found
            try:
                if (split, target) not in frames:
                    frames[split, target] = runs.predictions(group, split, target)
                clips = frames[split, target]
                predictions = clips.drop(columns=["label", "mean"]).to_numpy(copy=True).T
                stored = runs.table.loc[runs.table["group"] == group, metric].to_numpy()
                labels = clips["label"].to_numpy(copy=True)
                given = stats.scores(convention, predictions, labels, _components(clips))
                if not np.allclose(given, stored, rtol=0, atol=1e-5, equal_nan=True):
                    raise DataError(
                        f"predictions.parquet gives {given.round(4)}, metrics.json says "
                        f"{stored.round(4)}; evaluate with again=true"
                    )
            except DataError as error:
                reasons.append(f"{group}: no interval of {metric}: {error}")
                continue
            sample = next((known for known in samples if known.has(clips)), None)
            if sample is None:
                sample = _Sample(clips, by, resamples, seed)
                samples.append(sample)
            groups[group, metric] = sample.score(convention, predictions)
            baselines[group, metric] = sample.mean_predictor(convention)
    return groups, baselines, reasons


class _Sample:
    """Clips with their resamples and the mean predictor's scores: equal for most groups."""

    def __init__(self, clips: pd.DataFrame, by: str, resamples: int, seed: int) -> None:
        self.clips, self.components = clips[["label", "mean"]], _components(clips)
        ids = videos(clips) if by == "video" else clips.index.get_level_values("id")
        self.clusters = ids.nunique()
        self.draws = stats.draw(ids, resamples, seed)
        self._mean_predictor: dict[stats.Metric, Score] = {}

    def has(self, clips: pd.DataFrame) -> bool:
        return self.clips.equals(clips[["label", "mean"]])

    def score(self, convention: stats.Metric, predictions: stats.FloatArray) -> Score:
        """Of predictions (S, N)."""
        y = self.clips["label"].to_numpy(copy=True)
        return Score(
            stats.scores(convention, predictions, y, self.components),
            stats.replicates(convention, predictions, y, self.draws, self.components),
            self.clips["label"],
            self.clusters,
        )

    def mean_predictor(self, convention: stats.Metric) -> Score:
        if convention not in self._mean_predictor:
            constant = self.clips["mean"].to_numpy(copy=True)[None]
            self._mean_predictor[convention] = self.score(convention, constant)
        return self._mean_predictor[convention]


def _components(clips: pd.DataFrame) -> stats.IntArray | None:
    """Which of its clip's values each row is; None where a clip has one."""
    numbers = clips.index.get_level_values("component").to_numpy()
    return numbers if len(np.unique(numbers)) > 1 else None


def videos(clips: pd.Series | pd.DataFrame) -> pd.Index:
    """The video of each row: its clip's id ``<video>_<n>`` up to the last underscore."""
    return clips.index.get_level_values("id").str.replace(r"_\d+$", "", regex=True)


def summarise(
    table: pd.DataFrame, metrics: Sequence[str], groups: Scores, baselines: Scores
) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, and 95 % interval over clips.

    Returns:
        One row per group and metric: group, metric, n, undefined (how many of the n), mean, sd,
        low, high. The mean predictor comes last; its n counts the different ones among the runs,
        and it has an interval where there is but one.
    """
    rows = [
        _row(str(group), metric, runs[metric], groups.get((str(group), metric)))
        for group, runs in table.groupby("group", sort=False)
        for metric in metrics
    ]
    for metric in metrics:
        stored = metric.replace("test/", "mean_predictor/")
        if stored != metric and stored in table:
            values = pd.Series(table[stored].round(6).unique())
            score = baselines.get((table["group"].iloc[0], metric))
            rows.append(_row(MEAN_PREDICTOR, metric, values, score if len(values) == 1 else None))
    return pd.DataFrame(rows)


def chance(runs: Runs, metrics: Sequence[str], scores: Scores) -> pd.DataFrame:
    """What guessing gives: every class with the same probability, averaged over 1000 guesses.

    Args:
        runs: From ``collect``.
        metrics: ``<split>/<metric>``.
        scores: From :func:`bootstrap`.

    Returns:
        Rows like those of :func:`summarise`, for the clips of the first group; none for targets
        that are no classes.
    """
    rng, group, rows = np.random.default_rng(0), runs.groups[0], []
    for metric in metrics:
        found = runs.function(group, metric)
        if not found or (group, metric) not in scores:
            continue
        target, convention = found
        classes = runs.of(group)[0].objective.targets[target].classes
        if classes is None:
            continue
        clips = runs.predictions(group, metric.split("/")[0], target)
        labels = clips["label"].to_numpy(copy=True)
        drawn = rng.integers(classes, size=(_GUESSES, len(labels)), dtype=np.int16)
        guesses = drawn.astype(np.float32)
        values = stats.scores(convention, guesses, labels, _components(clips))
        rows.append(_row(CHANCE, metric, pd.Series([values.mean()]), None))
    return pd.DataFrame(rows)


def _row(group: str, metric: str, values: pd.Series, score: Score | None) -> dict[str, object]:
    mean, sd = stats.mean_sd(values.to_numpy())
    low, high = (np.nan, np.nan)
    if score:
        low, high = stats.interval(score.replicates, score.clusters)
    row = {"group": group, "metric": metric, "n": len(values), "undefined": values.isna().sum()}
    return row | {"mean": mean, "sd": sd, "low": low, "high": high}


def of(subset: str, metric: str) -> str:
    """The same metric where only some modalities are there: ``test_text/mae``."""
    split, name = metric.split("/")
    return f"{split}_{subset}/{name}"


def compare(
    groups: Scores,
    baselines: Scores,
    metrics: Sequence[str],
    reference: str | None,
    subset: str | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Compare every group with the mean predictor, a reference, and itself on fewer modalities.

    All on the same clips.

    Args:
        groups: From :func:`bootstrap`.
        baselines: From there, too.
        metrics: ``<split>/<metric>``.
        reference: A group to compare all others with.
        subset: Modalities, ``text`` or ``text_audio``: every group is compared with itself where
            the others are masked, which transfer runs are scored on.

    Returns:
        One row per comparison: group, reference, metric, difference, low, high, p; over all rows,
        by Holm, p_holm, low_holm and high_holm; NaN where undefined. And the reasons why some
        comparisons are not there.
    """
    rows, reasons, tests = [], [], []
    for metric, group in ((m, g) for m in metrics for g in dict.fromkeys(g for g, _ in groups)):
        own, other = groups.get((group, metric)), groups.get((reference or "", metric))
        others: dict[str, Score | None] = {MEAN_PREDICTOR: baselines.get((group, metric))}
        if subset:
            alone = groups.get((group, of(subset, metric)))
            if alone:  # bootstrap has said why there is none
                others = {f"its {subset.replace('_', '+')} alone": alone, **others}
        if reference not in (None, group):
            others = {str(reference): other} | others
        for name, score in others.items():
            if not own or not score:
                reasons.append(f"{group} vs {name}: {metric} has no interval")
            elif not own.labels.equals(score.labels):
                reasons.append(f"{group} vs {name}: {metric} is of different clips")
            else:
                test = own.replicates - score.replicates, own.clusters, own.seeds, score.seeds
                low, high, p = stats.paired_test(*test)
                tests.append(test)
                difference = own.seeds.mean() - score.seeds.mean()
                row = {"group": group, "reference": name, "metric": metric}
                rows.append(row | {"difference": difference, "low": low, "high": high, "p": p})
    comparisons = pd.DataFrame(rows)
    if rows:
        p_values = comparisons["p"].to_numpy()
        comparisons["p_holm"] = stats.holm(p_values)
        levels = stats.holm_levels(p_values)
        together = [
            stats.paired_test(*t, level)[:2] for t, level in zip(tests, levels, strict=True)
        ]
        comparisons[["low_holm", "high_holm"]] = together
    return comparisons, reasons


def lower_is_better(metric: str) -> bool:
    """Errors and losses, against accuracies, F1 and correlations."""
    name = metric.split("/")[-1]
    return name.endswith("mae") or name.startswith("loss")


def sentence(comparison: pd.Series) -> str:
    """One comparison in words; what it claims follows from the interval and the adjusted p."""
    c = comparison
    what = f"{c['group']} vs {c['reference']}: {c['metric']} difference"
    if np.isnan(c["p"]):
        return f"{what} undefined, not tested"
    p = p_value(c["p_holm"])
    p = p if p.startswith("<") else f"= {p}"
    interval = f"[{c['low']:.3f}, {c['high']:.3f}]"
    return f"{what} {c['difference']:.3f} {interval}, p {p} (Holm): {verdict(c)}"


def conclusions(comparisons: pd.DataFrame) -> Iterator[str]:
    """Which groups are better than the mean predictor, metric by metric, and which are not.

    A group is better, it "works", if the paired interval of its gain excludes 0. The intervals hold
    at 95 % for all comparisons together. Metrics that the mean predictor does not have (the
    correlation of a constant) are left out.
    """
    if comparisons.empty:
        return
    tested = comparisons[(comparisons["reference"] == MEAN_PREDICTOR) & comparisons["p"].notna()]
    for metric, rows in tested.groupby("metric", sort=False):
        sign = -1 if lower_is_better(str(metric)) else 1
        ends = (sign * rows[["low_holm", "high_holm"]]).to_numpy()
        gains = rows[["group"]].assign(gain=sign * rows["difference"])
        gains[["least", "most"]] = np.sort(ends, axis=1)
        yield f"Gain in {metric} over the mean predictor [95 % for all comparisons together, Holm]:"
        for verdict_, chosen in (
            ("works", gains["least"] > 0),
            ("no evidence", (gains["least"] <= 0) & (gains["most"] >= 0)),
            ("worse", gains["most"] < 0),
        ):
            for _, g in gains[chosen].sort_values("gain", ascending=False).iterrows():
                interval = f"[{g['least']:.3f}, {g['most']:.3f}]"
                yield f"  {verdict_:11}  {g['group']}: {g['gain']:.3f} {interval}"


def p_value(p: float) -> str:
    """``.021``, ``< .001`` or ``undefined``."""
    if np.isnan(p):
        return "undefined"
    return "< .001" if p < 0.001 else f"{p:.3f}".replace("0.", ".")


def verdict(comparison: pd.Series) -> str:
    """What may be claimed of one comparison."""
    c = comparison
    if np.isnan(c["p"]):
        return "not tested"
    if c["p_holm"] < 0.05:
        better = (c["difference"] < 0) == lower_is_better(c["metric"])
        return f"{c['group']} is {'better' if better else 'worse'}"
    if c["low"] <= 0 <= c["high"]:
        return "no evidence of a difference"
    return "no evidence of a difference after correction"


def cells(summary: pd.DataFrame, gap: str = " ") -> pd.DataFrame:
    """A summary as text: a row per group, columns n and the metrics, ``mean ± sd [low, high]``."""
    wide = pd.DataFrame(index=pd.Index(summary["group"].unique(), name="group"))
    wide["n"] = summary.groupby("group")["n"].max().astype(str)
    wide.loc[wide.index.isin([MEAN_PREDICTOR, CHANCE]), "n"] = ""
    texts = summary.assign(text=[_cell(row, gap) for _, row in summary.iterrows()])
    for metric, rows in texts.groupby("metric", sort=False):
        wide[str(metric)] = rows.set_index("group")["text"]
    return wide.fillna("")


def _cell(row: pd.Series, gap: str) -> str:
    if row["undefined"]:
        some = row["undefined"] < row["n"]
        return f"undefined ({row['undefined']} of {row['n']})" if some else "undefined"
    spread = "" if np.isnan(row["sd"]) else f" ± {row['sd']:.3f}"
    interval = "" if np.isnan(row["low"]) else f"{gap}[{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['mean']:.3f}{spread}{interval}"


def markdown(wide: pd.DataFrame) -> str:
    """A frame of text as a markdown table."""
    rows = [[str(wide.index.name), *wide.columns], ["---"] * (len(wide.columns) + 1)]
    rows += [[str(row[0]), *row[1:]] for row in wide.itertuples()]
    return "\n".join("| " + " | ".join(x.replace("|", "\\|") for x in row) + " |" for row in rows)


def latex(wide: pd.DataFrame) -> str:
    """A frame of text as a LaTeX table, which needs the package booktabs."""
    columns = "l" + "r" * len(wide.columns)
    text = wide.reset_index().to_latex(index=False, escape=True, column_format=columns)
    return text.replace("±", "$\\pm$")


def terminal(summary: pd.DataFrame, width: int) -> Iterator[Table]:
    """A summary for a terminal: a table per split, cut into several where it is too wide."""
    wide = cells(summary, gap="\n")
    groups = max(10, min(width // 4, wide.index.str.len().max()))
    fit = max(1, (width - groups - 6) // 18)  # [-0.123, -0.123] and its margin
    splits: dict[str, list[str]] = {}
    for metric in wide.columns.drop("n"):
        splits.setdefault(metric.split("/")[0], []).append(metric)
    for metrics in splits.values():
        for i in range(0, len(metrics), fit):
            part = wide[metrics[i : i + fit]]
            table = Table("group", "n", box=box.SIMPLE)
            for metric in part.columns:
                table.add_column(metric, no_wrap=True)
            for group in part.index[(part != "").any(axis=1)]:
                table.add_row(*map(Text, [group, wide.loc[group, "n"], *part.loc[group]]))
            yield table


def deviations(table: pd.DataFrame, expected: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Compare fresh runs with earlier ones of the same group and seed.

    Args:
        table: One row per run, as ``Runs.table``.
        expected: The same, from an earlier ``results.csv``.

    Returns:
        The largest absolute deviation of each metric of ``expected``, infinite where only one of
        the two is undefined; and the expected runs that are missing, as ``<group> seed <k>``.
    """
    keys = ["group", "seed"]
    old, new = expected.set_index(keys), table.set_index(keys)
    missing = [f"{group} seed {seed}" for group, seed in old.index.difference(new.index)]
    old = old.loc[old.index.intersection(new.index), [c for c in old if "/" in str(c)]]
    new = new.reindex(index=old.index, columns=old.columns)
    apart = (new - old).abs().fillna(np.inf).mask(new.isna() & old.isna(), 0.0)
    return apart.max(), missing
