"""``msa-report`` from the command line, on fabricated run folders."""

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
        fixed = ["msa-report", f"runs={tmp_path / 'runs'}", "resamples=200"]
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
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "wrote some/where/results.csv and some/where/table.md"
    assert max(map(len, lines)) <= 100


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
    path.write_text(path.read_text().replace("c0ffee", "beef").replace("false", "true", 1))
    assert report("out=out") == 0
    text = Path("out/table.md").read_text()
    assert "Synthetic data" in text
    assert "The runs differ in their commit: c0ffee, beef-dirty." in text
    assert "uncommitted changes" in text
    assert "two: no metrics.json in it" in text


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
    assert out.splitlines()[-1].startswith("wrote b/results.csv")

    more = pd.concat([changed, changed.iloc[:1].assign(seed=7)])
    more.to_csv("more.csv", index=False)
    assert report(*quick, "out=b", "expect=more.csv", "tolerance=1") == 1
    assert "missing: text seed 7" in capsys.readouterr().out


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
        (["resample=word"], "resample: 'word' is neither video nor clip"),
        (["resamples=99"], "resamples: 99 found"),
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
