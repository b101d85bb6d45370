"""Sentiment and emotions in one run: trained, evaluated, reported."""

from pathlib import Path

import pandas as pd
import pytest

from msa_lightning.evaluate import evaluate
from msa_lightning.reporting import tables
from msa_lightning.reporting.collect import collect
from msa_lightning.reporting.document import Findings, Wanted, write_page
from msa_lightning.run import load_run

from .conftest import Train

METRICS = ["test/corr", "test/emotions_wacc", "test/emotions_f1"]


@pytest.mark.slow
def test_a_run_of_two_tasks_is_evaluated_and_reported(train_demo: Train, tmp_path: Path) -> None:
    run = train_demo("a", "objective=multi_task", "loss=multi_task")
    assert {"valid/loss_sentiment", "valid/loss_emotions", "valid/emotions_wacc"} <= {*run.history}
    scored = evaluate(load_run(run.dir), device="cpu", again=False)
    stored = load_run(run.dir).predictions.query("split == 'test' and target == 'emotions'")
    assert set(stored["label"]) == {0, 1} >= set(stored["prediction"])
    assert stored["component"].nunique() == 6

    runs = collect(str(run.dir), ["test"])
    scores, baselines, reasons = tables.bootstrap(runs, METRICS, by="video", resamples=100, seed=0)
    assert not reasons
    [group] = runs.groups
    for metric in METRICS:
        expected = scored[metric.removeprefix("test/")]
        found = scores[group, metric].seeds
        assert found == pytest.approx([expected], abs=1e-6, nan_ok=True)  # not all are present
    assert scored["emotions_f1"] > 0
    constant = load_run(run.dir).metrics["test_mean_predictor"]["emotions_f1"]
    assert baselines[group, METRICS[2]].seeds == pytest.approx([constant], abs=1e-6)

    summary = tables.summarise(runs.table, METRICS, scores, baselines)
    comparisons, _ = tables.compare(scores, baselines, METRICS, None)
    wanted = Wanted(title="t", metrics=METRICS, split="test", groups=8, reference=None, clips=100)
    write_page(Findings(runs, summary, comparisons, pd.DataFrame(), []), wanted, tmp_path / "page")
    page = (tmp_path / "page" / "report.html").read_text()
    assert "emotions happy" in page
    assert "emotions fear" in page
    assert (tmp_path / "page" / "clips_emotions_fear.csv").is_file()
