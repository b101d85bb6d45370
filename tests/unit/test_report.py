"""``msa-report`` from the command line, on fabricated run folders."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from msa_lightning.report import main
from msa_lightning.reporting.collect import Runs, collect

MakeRun = Callable[..., Path]
Report = Callable[..., int]


@pytest.fixture
def runs(make_run: MakeRun) -> Runs:
    """Three seeds of text alone, and of text with audio, which is better."""
    for seed in range(3):
        make_run(f"text-{seed}", "modalities=text", seed=seed, noise=1.0)
        folder = make_run(f"ta-{seed}", "modalities=text_audio", seed=seed, noise=0.5)
    return collect(str(folder.parent))


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Report:
    """Call the command; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str) -> int:
        fixed = ["msa-report", f"runs={tmp_path / 'runs'}", "resamples=200", "html=false"]
        monkeypatch.setattr(sys, "argv", [*fixed, *arguments])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


def test_results_and_table(runs: Runs, report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    assert report("out=some/where") == 0
    results = pd.read_csv("some/where/results.csv").fillna({"commit": ""})
    pd.testing.assert_frame_equal(results, runs.table, check_dtype=False, rtol=1e-14, atol=0)
    text = Path("some/where/table.md").read_text()
    assert text.startswith("| group | n | train/loss | train/mae | train/corr | test/mae |")
    assert "\n| text+audio | 3 | 0.500 ± 0.000 |" in text
    assert "- text+audio vs text: test/mae difference -0." in text
    assert "(Holm): text+audio is better" in text
    assert "text+audio vs mean predictor: test/corr difference undefined, not tested" in text
    assert "200 bootstrap resamples of 40 videos with all their clips" in text
    assert "corrected for the 4 comparisons" in text
    assert "Fewer than five seeds: text (3), text+audio (3)." in text
    assert "nan" not in text
    files = sorted(path.name for path in Path("some/where").iterdir())
    assert files == ["results.csv", "table.csv", "table.md", "table.tex"]
    lines = capsys.readouterr().out.splitlines()
    assert "  some/where/results.csv" in lines
    assert (
        lines[-3]
        == "Gain in test/mae over the mean predictor [95 % for all comparisons together, Holm]:"
    )
    assert [line.split(":")[0] for line in lines[-2:]] == [
        "  works        text+audio",
        "  works        text",
    ]
    assert max(map(len, lines)) <= 100


def test_page_and_tables_beside_it(
    runs: Runs, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("said.csv").write_text("id,text\nvideo_0_0,A FINE <FILM>\n")
    assert report("html=true", "out=out", "metrics=[test/mae]", "transcripts=said.csv") == 0
    page = Path("out/report.html").read_text()
    for text in tables_of(Path("out/table.md").read_text()):
        assert text in page
    assert "A FINE &lt;FILM&gt;" in page
    assert "report.html" in capsys.readouterr().out
    summary = pd.read_csv("out/table.csv")
    assert summary["group"].tolist() == ["text", "text+audio", "mean predictor"]
    assert summary["low"].lt(summary["mean"]).all()
    latex = Path("out/table.tex").read_text()
    assert "test/mae" in latex
    assert latex.count("$\\pm$") == 2
    written = {path.name for path in Path("out").rglob("*") if path.is_file()}
    figures = {f"{name}.{e}" for name in FIGURES for e in ("svg", "png")}
    tables = {"results.csv", "table.md", "table.csv", "table.tex", "clips_sentiment.csv"}
    assert written == {"report.html"} | tables | figures


FIGURES = ("results", "fit_sentiment", "confusion_sentiment")  # the fabricated have no history


def tables_of(markdown: str) -> list[str]:
    """Names and numbers of the first table."""
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line[:1] == "|"]
    return [word for row in rows[2:] for cell in row for word in cell.split(" [")[:1]]


@pytest.mark.slow
def test_the_report_is_reproducible_but_for_its_seed(runs: Runs, report: Report) -> None:
    chosen = ["metrics=[test/mae]", "compare=[test/mae]"]
    for out, seed in zip("abc", (0, 0, 1), strict=True):
        report(*chosen, f"out={out}", f"seed={seed}")
    a, b, c = (Path(f"{out}/table.md").read_text() for out in "abc")
    assert a == b != c


def test_columns_comparisons_and_resampling_are_chosen(runs: Runs, report: Report) -> None:
    chosen = ["metrics=[test/acc7]", "compare=[test/f1_has0]", "reference=text+audio"]
    assert report(*chosen, "resample=clip", "out=out") == 0
    text = Path("out/table.md").read_text()
    assert text.startswith("| group | n | test/acc7 |\n")
    assert "text vs text+audio: test/f1_has0" in text
    assert "as if those of one video were independent" in text


def test_training_metrics_alone(runs: Runs, report: Report) -> None:
    assert report("metrics=[train/mae]", "compare=[]", "out=out") == 0
    assert "mean predictor" not in Path("out/table.md").read_text()


def test_what_speaks_against_the_numbers_is_said(make_run: MakeRun, report: Report) -> None:
    make_run("one", seed=0, synthetic=True)
    (make_run("two", seed=1) / "metrics.json").unlink()
    path = make_run("three", seed=2) / "provenance.json"
    changed = path.read_text().replace("c0ffee", "beef").replace("false", "true", 1)
    path.write_text(changed.replace('"digest"', '"transductive": true, "digest"'))
    assert report("out=out") == 0
    text = Path("out/table.md").read_text()
    assert "Transductive, adapters have seen features of test clips: text+audio+visual." in text
    assert "Synthetic data" in text
    assert "The runs differ in their commit: c0ffee, beef-dirty." in text
    assert "uncommitted changes" in text
    assert "two: no metrics.json in it" in text


@pytest.mark.slow
def test_expected_results_are_met_or_the_exit_code_is_1(
    runs: Runs, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["metrics=[test/mae]", "compare=[]"]
    assert report(*quick, "out=a") == 0
    assert report(*quick, "out=a", "expect=a/results.csv") == 0

    changed = pd.read_csv("a/results.csv")
    changed.loc[0, "test/mae"] += 0.01
    changed.to_csv("changed.csv", index=False)
    assert report(*quick, "out=b", "expect=changed.csv", "tolerance=0.02") == 0
    capsys.readouterr()
    assert report(*quick, "out=b", "expect=changed.csv", "tolerance=0.001") == 1
    out = capsys.readouterr().out
    assert "1.00e-02  too large" in out
    assert out.count("too large") == 1
    assert "  b/results.csv\n" in out

    more = pd.concat([changed, changed.iloc[:1].assign(seed=7)])
    more.to_csv("more.csv", index=False)
    assert report(*quick, "out=b", "expect=more.csv", "tolerance=1") == 1
    assert "missing: text seed 7" in capsys.readouterr().out


@pytest.mark.slow
def test_five_hundred_runs(make_run: MakeRun, report: Report) -> None:
    first = make_run("first", "modalities=text")
    config, frame = (first / "config.yaml").read_text(), pd.read_parquet(first / PREDICTIONS)
    metrics = json.loads((first / "metrics.json").read_text())
    for number in range(500):
        folder = shutil.copytree(first, first.with_name(f"run-{number}"))
        lr, seed = (number // 5 + 1) / 1000, number % 5
        text = config.replace("lr: 0.0008", f"lr: {lr}").replace("seed: 0", f"seed: {seed}")
        (folder / "config.yaml").write_text(text)
        scale = 1 - number / 1000
        scaled = frame.assign(prediction=(frame["prediction"] * scale).astype("float32"))
        scaled.to_parquet(folder / PREDICTIONS, index=False)
        error = (scaled["prediction"] - scaled["label"]).abs()
        for split in ("train", "test"):
            metrics[split]["mae"] = float(error[scaled["split"] == split].mean())
        (folder / "metrics.json").write_text(json.dumps(metrics))
        history = pd.DataFrame({"train/loss": [2.0, 1.0 + number / 500]})
        history.to_csv(folder / "history.csv", index_label="epoch")
    shutil.rmtree(first)
    (folder / "metrics.json").unlink()

    assert report("html=true", "out=out", "resamples=100", "metrics=[train/mae,test/mae]") == 0
    page = Path("out/report.html")
    text = page.read_text()
    assert page.stat().st_size < 10e6
    assert "499 runs in 100 groups" in text
    assert "Of 100 groups the first 8 are shown here." in text
    assert "optimizer.lr=0.1: no run of seed 4" in text
    assert f'<td class="wide">{folder}</td>' in text
    assert "no interval of test/mae" not in text
    assert len(pd.read_csv("out/results.csv")) == 499
    groups = pd.read_csv("out/table.csv")["group"].unique().tolist()
    names = [f"optimizer.lr={(i + 1) / 1000}" for i in range(100)]
    assert groups == [*names, "mean predictor"]


PREDICTIONS = "predictions.parquet"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs=nothing/*"], "nothing/*: no finished run there"),
        (["metrics=[test/maee]"], "no run has test/maee; there are train/loss, train/mae"),
        (["metrics=[valid/mae]"], "not scored on valid"),
        (["metrics=[]"], "metrics: empty"),
        (["compare=[train/mae]"], "compare: train/mae has no interval over clips"),
        (["compare=[test/loss]"], "compare: test/loss has no interval over clips"),
        (["reference=visual"], "reference: no group 'visual'; there are ['text+audio+visual']"),
        (["subset=text"], "subset: no run has test_text/mae, test_text/corr; there are"),
        (["resample=word"], "resample: 'word' is neither video nor clip"),
        (["resamples=99"], "resamples: 99 found"),
        (["groups=0"], "groups, clips: 0 and 1000 found"),
        (["html=true", "transcripts=nothing.csv"], "nothing.csv cannot be read"),
        (["expect=nothing.csv"], "nothing.csv: no such file"),
        (["expect=runs/run/config.yaml"], "config.yaml"),
        (["out=runs/run/config.yaml"], "is a file; give a folder"),
    ],
)
def test_bad_input_is_explained_and_nothing_written(
    make_run: MakeRun,
    report: Report,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    make_run("run")
    assert report("out=out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_pattern_with_spaces_and_brackets(make_run: MakeRun, report: Report) -> None:
    folder = make_run("a, [b=1] c")
    assert report(f"runs={folder}", "out=out") == 0
    assert pd.read_csv("out/results.csv")["run"].tolist() == ["a, [b=1] c"]
