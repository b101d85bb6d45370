"""Every finished run is a row of the right group; every other folder has its reason."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from msa_lightning.errors import DataError, DataNotFoundError
from msa_lightning.reporting.collect import collect

MakeRun = Callable[..., Path]


def test_import_needs_no_torch() -> None:
    code = "import sys, msa_lightning.reporting.collect; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_row_per_run_grouped_by_everything_but_the_seed(make_run: MakeRun) -> None:
    for m in ("text_audio_visual", "audio", "text_audio", "text"):
        for seed in (1, 0):
            folder = make_run(f"{m}-seed{seed}", f"modalities={m}", seed=seed)
    runs = collect(str(folder.parent))
    assert runs.groups == ["text", "audio", "text+audio", "text+audio+visual"]
    assert runs.table["seed"].tolist() == [0, 1] * 4
    assert runs.table["run"].tolist() == [run.dir.name for run in runs.loaded]
    assert set(runs.table["commit"]) == {"c0ffee"}
    assert set(runs.table["digest"]) == {"d1"}
    stored = json.loads((folder / "metrics.json").read_text())
    row = runs.table[runs.table["run"] == folder.name].iloc[0]
    assert row["test/mae"] == stored["test"]["mae"]
    assert row["mean_predictor/mae"] == stored["test_mean_predictor"]["mae"]
    assert np.isnan(row["mean_predictor/corr"])
    assert runs.left_out == {}


@pytest.mark.parametrize(
    ("overrides", "groups"),
    [
        (["model=base", "model=tfn"], ["model=BaseFusion", "model=TFN"]),
        (
            ["loss.weights.correlation=1.0", "loss.weights.correlation=0.2"],
            ["loss.weights.correlation=0.2", "loss.weights.correlation=1.0"],
        ),
        (["trainer.devices=1", "trainer.devices=2"], ["text+audio+visual"]),
        (["logger=csv", "logger=[]"], ["text+audio+visual"]),
        (["paths.data=/a", "paths.data=/b"], ["text+audio+visual"]),
        (
            ["init_from=x/a-seed0-0123abcd", "init_from=x/a-seed1-89abcdef scheduler=none"],
            ["scheduler=none", "scheduler=ReduceLROnPlateau"],
        ),
    ],
    ids=["class", "derived once", "devices", "logger", "places", "absent"],
)
def test_group_names_what_differs(
    make_run: MakeRun, overrides: list[str], groups: list[str]
) -> None:
    for seed, override in enumerate(overrides):
        folder = make_run(f"run-{seed}", *override.split(), seed=seed)
    assert collect(str(folder.parent)).groups == groups


def test_transfer_runs_beside_trained_ones(make_run: MakeRun) -> None:
    for method, share in (("task", 1.0), ("random", 1.0), ("task", 0.1)):
        with (make_run(f"{method}-{share}") / "config.yaml").open("a") as config:
            config.write(f"method: {method}\nshare: {share}\nbase: b-seed0-0123abcd\n")
    folder = make_run("trained", "modalities=text")
    runs = collect(str(folder.parent))
    assert runs.groups == ["text", "random", "task, share=0.1", "task"]
    assert runs.settings.loc["task, share=0.1", "share"] == 0.1
    assert runs.settings.loc["text", "method"] is None


def test_unusable_folders_are_listed_with_the_reason(make_run: MakeRun) -> None:
    good = make_run("good")
    broken = {
        name: make_run(name, seed=seed)
        for seed, name in enumerate(["unfinished", "cut", "config", "unread", "bare"], start=1)
    }
    (broken["unfinished"] / "metrics.json").unlink()
    (broken["cut"] / "metrics.json").write_text('{"train": {"mae"')
    (broken["config"] / "config.yaml").write_text("- a\n- b: [")
    metrics = json.loads((broken["unread"] / "metrics.json").read_text())
    (broken["unread"] / "metrics.json").write_text(json.dumps({"train": metrics["train"]}))
    shutil.rmtree(broken["bare"])
    broken["bare"].mkdir()
    shutil.copytree(good, good.with_name("twice"))

    runs = collect(str(good.parent / "*"), splits=["train", "test"])
    assert runs.table["run"].tolist() == ["good"]
    reasons = {folder.name: reason for folder, reason in runs.left_out.items()}
    assert "no metrics.json" in reasons["unfinished"]
    assert "damaged (JSONDecodeError" in reasons["cut"]
    assert "damaged (ParserError" in reasons["config"]
    assert "not scored on test; msa-evaluate 'run=" in reasons["unread"]
    assert "no config.yaml" in reasons["bare"]
    assert "repeats group and seed" in reasons["twice"]
    assert not any("\n" in reason for reason in reasons.values())
    with pytest.raises(DataNotFoundError, match=r"no finished run there\n.*not scored on test"):
        collect(str(broken["unread"]), splits=["test"])


def test_runs_are_found_at_any_depth_and_by_any_name(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a/b [x=1], c", seed=0)
    inner = make_run("a/.hidden/run", seed=2)
    shutil.copytree(inner, make_run("d/run", seed=1) / "wandb")
    assert collect(str(tmp_path / "runs")).table["run"].tolist() == ["b [x=1], c", "run"]
    assert len(collect(str(tmp_path / "runs/a/b [x=1], c")).table) == 1
    assert len(collect(str(tmp_path / "r*s/?")).table) == 2
    with pytest.raises(DataNotFoundError, match="no finished run"):
        collect(str(tmp_path / "nothing*"))


def test_predictions_are_aligned_by_clip(make_run: MakeRun) -> None:
    folders = [make_run(f"run-{seed}", seed=seed) for seed in (0, 1)]
    path = folders[1] / "predictions.parquet"
    stored = pd.read_parquet(path)
    stored.sample(frac=1, random_state=0).to_parquet(path)
    runs = collect(str(folders[0].parent))
    frame = runs.predictions(runs.groups[0], "test", "sentiment")
    assert list(frame) == ["label", "mean", 0, 1]
    test = stored[stored["split"] == "test"].set_index(["id", "component"]).sort_index()
    pd.testing.assert_series_equal(frame[1], test["prediction"], check_names=False)
    train = stored.loc[stored["split"] == "train", "label"]
    assert frame["mean"].unique() == pytest.approx([train.mean()])


def test_predictions_of_several_components_and_unlabelled_clips(make_run: MakeRun) -> None:
    folder = make_run("run")
    stored = pd.read_parquet(folder / "predictions.parquet")
    stored.loc[0, "label"] = np.nan
    second = stored.assign(component=1, label=stored["label"] + 10)
    pd.concat([stored, second]).to_parquet(folder / "predictions.parquet")
    runs = collect(str(folder))
    frame = runs.predictions(runs.groups[0], "test", "sentiment")
    assert len(frame) == 2 * 119
    means = frame.groupby(level="component")["mean"].first()
    assert means[1] == pytest.approx(means[0] + 10)


@pytest.mark.parametrize("damage", ["labels", "clips", "cut", "absent", "twice"])
def test_predictions_that_do_not_match_are_refused(make_run: MakeRun, damage: str) -> None:
    make_run("run-0", seed=0)
    path = make_run("run-1", seed=1) / "predictions.parquet"
    frame = pd.read_parquet(path)
    if damage == "labels":
        frame["label"] += 1
    elif damage == "clips":
        frame = pd.concat([frame, frame.iloc[:1].assign(id="one_more_0")])
    elif damage == "twice":
        frame = pd.concat([frame, frame.iloc[:1]])
    frame.to_parquet(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "absent":
        path.unlink()
    runs = collect(str(path.parent.parent))
    with pytest.raises(DataError, match="run-1"):
        runs.predictions(runs.groups[0], "test", "sentiment")


def test_function_is_the_convention_of_the_run(make_run: MakeRun) -> None:
    from msa_lightning.metrics import f1_has0

    runs = collect(str(make_run("run")))
    found = runs.function(runs.groups[0], "test/f1_has0")
    assert found == ("sentiment", f1_has0)
    assert runs.function(runs.groups[0], "test/loss") is None


def test_a_run_that_failed_is_left_out_with_its_reason(make_run: MakeRun) -> None:
    make_run("a")
    folder = make_run("b", seed=1)
    (folder / "metrics.json").unlink()
    log = folder / "train.log"
    log.write_text(
        "2026-01-01 10:00:00,000 INFO begun\n2026-01-01 10:00:01,000 ERROR failed\n"
        "Traceback (most recent call last):\n  File y\nKeyError: cause\n\nDuring handling:\n\n"
        "Traceback (most recent call last):\n  File x\nRuntimeError: no room\n\tsize 3\nSee y.\n"
    )
    [reason] = collect(str(folder.parent)).left_out.values()
    assert reason.endswith("; it failed: RuntimeError: no room")
    log.write_text(log.read_text() + "2026-01-01 11:00:00,000 INFO continuing\n")
    [reason] = collect(str(folder.parent)).left_out.values()
    assert "it failed" not in reason
