"""Tables say what was measured, what is undefined, and no more than the intervals do."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from msa_lightning import metrics
from msa_lightning.reporting import stats, tables
from msa_lightning.reporting.collect import Runs, collect

MakeRun = Callable[..., Path]
METRICS = ["train/loss", "train/mae", "test/mae", "test/corr"]


@pytest.fixture
def runs(make_run: MakeRun) -> Runs:
    for seed in range(3):
        make_run(f"text-{seed}", "modalities=text", seed=seed, noise=1.0)
        folder = make_run(f"ta-{seed}", "modalities=text_audio", seed=seed, noise=0.5)
    return collect(str(folder.parent))


def bootstrap(runs: Runs, by: str = "video") -> tuple[tables.Scores, tables.Scores, list[str]]:
    return tables.bootstrap(runs, METRICS, by=by, resamples=200, seed=0)


def test_bootstrap_scores_groups_and_the_mean_predictor(runs: Runs) -> None:
    groups, baselines, reasons = bootstrap(runs)
    assert reasons == []
    assert set(groups) == {(g, m) for g in ("text", "text+audio") for m in METRICS[2:]}
    table = runs.table.groupby("group")
    for (group, metric), score in groups.items():
        assert score.seeds == pytest.approx(table[metric].get_group(group), abs=1e-6)
        assert score.replicates.shape == (200,)
    stored = runs.table["mean_predictor/mae"].iloc[0]
    assert baselines["text", "test/mae"].seeds == pytest.approx([stored], abs=1e-6)
    assert np.isnan(baselines["text", "test/corr"].seeds).all()


def test_videos_are_resampled_whole_unless_asked_otherwise(runs: Runs) -> None:
    by_video, by_clip = (bootstrap(runs, by)[0]["text", "test/mae"] for by in ("video", "clip"))
    assert (by_video.replicates != by_clip.replicates).any()
    assert (by_video.clusters, by_clip.clusters) == (40, 120)
    ids = pd.Index(["-a_b_12", "-a_b_3", "no number", "c_x"], name="id")
    found = tables.videos(pd.DataFrame(index=pd.MultiIndex.from_product([ids, [0]])))
    assert found.tolist() == ["-a_b", "-a_b", "no number", "c_x"]


def test_no_interval_from_predictions_that_do_not_give_the_stored_metric(runs: Runs) -> None:
    path = runs.loaded[0].dir / "metrics.json"
    stored = json.loads(path.read_text())
    stored["test"]["mae"] += 0.01
    path.write_text(json.dumps(stored))
    groups, _, reasons = bootstrap(collect(str(path.parent.parent)))
    assert ("text", "test/mae") not in groups
    assert ("text", "test/corr") in groups
    assert len(reasons) == 1
    assert "text: no interval of test/mae: predictions.parquet gives" in reasons[0]


def test_summary_counts_seeds_and_undefined_ones(runs: Runs) -> None:
    table = runs.table.copy()
    table.loc[(table["group"] == "text") & (table["seed"] == 1), "test/corr"] = np.nan
    groups, baselines, _ = bootstrap(runs)
    summary = tables.summarise(table, METRICS, groups, baselines).set_index(["group", "metric"])
    row = summary.loc[("text+audio", "test/mae")]
    values = table.loc[table["group"] == "text+audio", "test/mae"]
    assert (row["n"], row["undefined"]) == (3, 0)
    assert (row["mean"], row["sd"]) == pytest.approx((values.mean(), values.std(ddof=1)))
    interval = stats.interval(groups["text+audio", "test/mae"].replicates, 40)
    assert (row["low"], row["high"]) == pytest.approx(interval)
    assert row["low"] < row["mean"] < row["high"]
    assert summary.loc[("text", "test/corr"), "undefined"] == 1
    assert np.isnan(summary.loc[("text", "test/corr"), "mean"])
    assert np.isnan(summary.loc[("text", "train/mae"), "low"])

    cells = tables.cells(summary.reset_index())
    assert cells.index.tolist() == ["text", "text+audio", "mean predictor"]
    assert cells.loc["text", "test/corr"] == "undefined (1 of 3)"
    assert cells.loc["mean predictor", "test/corr"] == "undefined"
    assert cells.loc["mean predictor", "train/mae"] == ""
    assert cells.loc["mean predictor", "n"] == ""
    assert "nan" not in tables.markdown(cells)


def test_cells_and_markdown() -> None:
    rows = [
        ["a|b", "test/mae", 5, 0, 1.00555, 0.0222, 0.9334, 1.0847],
        ["a|b", "train/mae", 5, 0, 0.5, 0.01, np.nan, np.nan],
        ["c", "test/mae", 1, 0, 1.0, np.nan, 0.9, 1.1],
    ]
    columns = ["group", "metric", "n", "undefined", "mean", "sd", "low", "high"]
    text = tables.markdown(tables.cells(pd.DataFrame(rows, columns=columns)))
    assert text.splitlines() == [
        "| group | n | test/mae | train/mae |",
        "| --- | --- | --- | --- |",
        "| a\\|b | 5 | 1.006 ± 0.022 [0.933, 1.085] | 0.500 ± 0.010 |",
        "| c | 1 | 1.000 [0.900, 1.100] |  |",
    ]


def test_latex_escapes_names() -> None:
    index = pd.Index(["50 % & a_b"], name="group")
    text = tables.latex(pd.DataFrame({"test/acc2_has0": ["0.5 ± 0.1 [0.4, 0.6]"]}, index))
    assert "group & test/acc2\\_has0 \\\\" in text
    assert "50 \\% \\& a\\_b & 0.5 $\\pm$ 0.1 [0.4, 0.6] \\\\" in text
    assert "\\toprule" in text


def test_groups_on_the_same_clips_share_the_mean_predictor(runs: Runs) -> None:
    _, baselines, _ = bootstrap(runs)
    assert baselines["text", "test/mae"] is baselines["text+audio", "test/mae"]
    path = runs.loaded[-1].dir / "predictions.parquet"
    stored = pd.read_parquet(path)
    train = stored["split"] == "train"
    for run in runs.of("text+audio"):
        frame = pd.read_parquet(run.dir / path.name)
        frame.loc[train, "label"] += 1
        frame.to_parquet(run.dir / path.name)
    _, changed, _ = bootstrap(runs)
    assert changed["text", "test/mae"].seeds == baselines["text", "test/mae"].seeds
    assert changed["text+audio", "test/mae"].seeds != baselines["text", "test/mae"].seeds


@pytest.mark.parametrize("width", [80, 100, 120])
def test_terminal_tables_fit_and_show_every_metric(runs: Runs, width: int) -> None:
    wanted = [*METRICS, "test/acc2_has0", "test/f1_has0", "test/acc7"]
    scores = tables.bootstrap(runs, wanted, by="video", resamples=20, seed=0)[:2]
    summary = tables.summarise(runs.table, wanted, *scores)
    console = Console(width=width, file=io.StringIO())
    for table in tables.terminal(summary, width):
        assert table.__rich_measure__(console, console.options).maximum <= width
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(metric in text for metric in wanted)
    assert text.count("±") == 2 * len(wanted)
    assert "…" not in text


def test_comparisons_are_with_the_reference_and_the_mean_predictor(runs: Runs) -> None:
    groups, baselines, _ = bootstrap(runs)
    comparisons, reasons = tables.compare(groups, baselines, METRICS[2:], "text")
    assert reasons == []
    pairs = list(zip(comparisons["group"], comparisons["reference"], strict=True))
    assert pairs == 2 * [
        ("text", "mean predictor"),
        ("text+audio", "text"),
        ("text+audio", "mean predictor"),
    ]
    row = comparisons.iloc[1]
    assert row["low"] < row["difference"] < row["high"] < 0
    assert comparisons["p_holm"].isna().tolist() == comparisons["p"].isna().tolist()
    assert comparisons["p"].isna().sum() == 2  # the correlation of the mean predictor
    expected = stats.holm(comparisons["p"].to_numpy())
    np.testing.assert_array_equal(comparisons["p_holm"], expected)
    text = tables.sentence(row)
    assert text.startswith("text+audio vs text: test/mae difference -0.")
    assert text.endswith("(Holm): text+audio is better")
    assert "undefined, not tested" in tables.sentence(comparisons.iloc[3])


def test_a_group_is_compared_with_itself_on_some_modalities(make_run: MakeRun) -> None:
    for seed in range(3):
        folder = make_run(f"full-{seed}", seed=seed, noise=0.5)
        alone = make_run(f"text-{seed}", seed=seed + 10, noise=1.0)
        frames = [pd.read_parquet(f / "predictions.parquet") for f in (folder, alone)]
        frames[1] = frames[1][frames[1]["split"] == "test"].assign(split="test_text")
        pd.concat(frames).to_parquet(folder / "predictions.parquet")
        stored = [json.loads((f / "metrics.json").read_text()) for f in (folder, alone)]
        stored[0]["test_text"] = stored[1]["test"]
        (folder / "metrics.json").write_text(json.dumps(stored[0]))
    runs = collect(f"{folder.parent}/full-*")
    wanted = ["test/mae", "test_text/mae"]
    groups, baselines, _ = tables.bootstrap(runs, wanted, by="video", resamples=200, seed=0)
    comparisons, reasons = tables.compare(groups, baselines, wanted[:1], None, "text")
    assert reasons == []
    assert comparisons["reference"].tolist() == ["its text alone", "mean predictor"]
    means = runs.table[wanted].mean()
    assert comparisons["difference"][0] == pytest.approx(means.iloc[0] - means.iloc[1], abs=1e-6)
    assert tables.sentence(comparisons.iloc[0]).endswith("text+audio+visual is better")
    comparisons, reasons = tables.compare(groups, baselines, wanted[:1], None, "audio")
    assert reasons == []
    assert comparisons["reference"].tolist() == ["mean predictor"]


def test_a_group_works_where_the_corrected_interval_of_its_gain_excludes_0() -> None:
    def row(group: str, metric: str, low: float, high: float) -> dict[str, object]:
        return {
            **{"group": group, "reference": "mean predictor", "metric": metric, "p": 0.5},
            **{"difference": (low + high) / 2, "low_holm": low, "high_holm": high},
        }

    rows = [
        row("a", "test/mae", -0.3, -0.1),
        row("b", "test/mae", -0.3, 0.1),
        row("c", "test/mae", 0.1, 0.3),
        row("d", "test/mae", -0.5, -0.3),
        row("a", "test/acc7", 0.1, 0.3),
        row("a", "test/corr", np.nan, np.nan) | {"p": np.nan},
        row("a", "test/mae", -0.3, -0.1) | {"reference": "text"},
    ]
    lines = list(tables.conclusions(pd.DataFrame(rows)))
    assert [" ".join(line.split()) for line in lines if line[0] == " "] == [
        "works d: 0.400 [0.300, 0.500]",
        "works a: 0.200 [0.100, 0.300]",
        "no evidence b: 0.100 [-0.100, 0.300]",
        "worse c: -0.200 [-0.300, -0.100]",
        "works a: 0.200 [0.100, 0.300]",
    ]
    assert [line.split()[2] for line in lines if line[0] != " "] == ["test/mae", "test/acc7"]


def test_corrected_intervals_agree_with_corrected_p(runs: Runs) -> None:
    groups, baselines, _ = bootstrap(runs)
    comparisons, _ = tables.compare(groups, baselines, METRICS[2:], "text")
    tested = comparisons[comparisons["p"].notna()]
    excluded = (tested["low_holm"] > 0) | (tested["high_holm"] < 0)
    assert excluded.tolist() == (tested["p_holm"] < 0.05).tolist()
    assert (tested["low_holm"] <= tested["low"]).all()
    assert comparisons["low_holm"].isna().tolist() == comparisons["p"].isna().tolist()


def test_groups_of_different_clips_are_not_compared(runs: Runs) -> None:
    for run in runs.of("text+audio"):
        path = run.dir / "predictions.parquet"
        frame = pd.read_parquet(path)
        frame.assign(id="other_" + frame["id"]).to_parquet(path)
    groups, baselines, _ = bootstrap(runs)
    comparisons, reasons = tables.compare(groups, baselines, ["test/mae"], "text")
    assert set(comparisons["reference"]) == {"mean predictor"}
    assert reasons == ["text+audio vs text: test/mae is of different clips"]


@pytest.mark.parametrize(
    ("metric", "difference", "low", "high", "p", "claim"),
    [
        ("test/mae", -0.02, -0.03, -0.01, 0.004, "p = .004 (Holm): a is better"),
        ("test/mae", 0.02, 0.01, 0.03, 0.0004, "p < .001 (Holm): a is worse"),
        ("test/corr", 0.02, 0.01, 0.03, 0.004, "a is better"),
        ("test/corr", -0.02, -0.03, -0.01, 0.004, "a is worse"),
        ("test/mae", -0.01, -0.03, 0.01, 0.4, "p = .400 (Holm): no evidence of a difference"),
        ("test/mae", -0.02, -0.03, -0.01, 0.06, "no evidence of a difference after correction"),
        ("test/mae", -0.01, -0.03, 0.01, 1.0, "p = 1.000 (Holm): no evidence of a difference"),
        ("test/mae", np.nan, np.nan, np.nan, np.nan, "test/mae difference undefined, not tested"),
    ],
)
def test_sentence_claims_what_interval_and_p_say(
    metric: str, difference: float, low: float, high: float, p: float, claim: str
) -> None:
    row = {"group": "a", "reference": "b", "metric": metric, "difference": difference}
    row |= {"low": low, "high": high, "p": p, "p_holm": p}
    assert tables.sentence(pd.Series(row)).endswith(claim)


def test_the_better_direction_of_every_convention() -> None:
    target = torch.linspace(-3, 3, 60).repeat(2)
    for name in set(metrics.__all__) - {"SplitMetrics"}:
        if name in ("accuracy", "weighted_accuracy", "f1_weighted", "f1_macro"):
            continue  # of classes
        metric = getattr(metrics, name)
        perfect, bad = metric(target, target), metric(-target + 0.1, target)
        assert (perfect < bad) == tables.lower_is_better(f"test/{name}"), name
    assert tables.lower_is_better("train/loss_absolute")


def test_deviations_and_missing_runs(runs: Runs) -> None:
    old = runs.table.copy()
    largest, missing = tables.deviations(runs.table, old)
    assert missing == []
    assert (largest == 0).all()
    assert set(largest.index) == set(runs.metrics)
    fresh = old.iloc[1:].copy()
    fresh.loc[3, "test/mae"] += 0.25
    fresh.loc[4, "test/corr"] = np.nan
    largest, missing = tables.deviations(fresh, old)
    assert missing == ["text seed 0"]
    assert largest["test/mae"] == pytest.approx(0.25)
    assert largest["test/corr"] == np.inf
    assert largest["train/mae"] == 0
    assert tables.deviations(fresh.drop(columns="test/mae"), old)[0]["test/mae"] == np.inf
