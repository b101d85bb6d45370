"""The table of clips puts first where modalities disagree, and takes nothing for granted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from msa_lightning.errors import DataError
from msa_lightning.reporting import clips
from msa_lightning.reporting.collect import Runs, collect

MakeRun = Callable[..., Path]


def frames_of(runs: Runs) -> dict[str, pd.DataFrame]:
    every = {g: runs.predictions(g, "test", "sentiment") for g in runs.groups}
    return {g: clips.of_component(f, 0) for g, f in every.items()}


@pytest.fixture
def runs(make_run: MakeRun) -> Runs:
    for m, noise in (("text", 0.5), ("audio", 2.0), ("text_audio", 0.5)):
        folder = make_run(m, f"modalities={m}", noise=noise, seed=len(m))
    return collect(str(folder.parent))


def test_disagreement_of_single_modalities_comes_first(runs: Runs) -> None:
    frames = frames_of(runs)
    alone = clips.single_modalities(runs, frames, "test", "sentiment", 0)
    assert list(alone) == ["text", "audio"]
    table = clips.tabulate(runs, frames, alone, classes=False)
    assert list(table) == ["label", "error", "disagreement", "text", "audio", "text+audio"]
    assert table["disagreement"].is_monotonic_decreasing
    assert table["disagreement"].to_numpy() == pytest.approx((table["text"] - table["audio"]).abs())
    assert table["error"].to_numpy() == pytest.approx((table["text+audio"] - table["label"]).abs())
    assert len(table) == 120


def test_a_model_s_own_predictions_per_modality_are_compared(make_run: MakeRun) -> None:
    folder = make_run("run")
    path = folder / "predictions.parquet"
    stored = pd.read_parquet(path)
    stored.assign(prediction_text=1.0, prediction_visual=-0.5).to_parquet(path)
    runs = collect(str(folder))
    frames = frames_of(runs)
    alone = clips.single_modalities(runs, frames, "test", "sentiment", 0)
    name = "text+audio+visual"
    assert list(alone) == [f"{name}: text alone", f"{name}: visual alone"]
    table = clips.tabulate(runs, frames, alone, classes=False)
    assert (table["disagreement"] == 1.5).all()
    assert table["error"].is_monotonic_decreasing


def test_without_single_modalities_the_largest_error_comes_first(make_run: MakeRun) -> None:
    runs = collect(str(make_run("run")))
    frames = frames_of(runs)
    table = clips.tabulate(runs, frames, {}, classes=False)
    assert "disagreement" not in table
    assert table["error"].is_monotonic_decreasing


def test_other_labels_and_absent_clips_are_not_compared(runs: Runs) -> None:
    frames = frames_of(runs)
    frames["audio"] = frames["audio"].drop(index="video_0_0")
    frames["text+audio"].loc["video_1_0", "label"] += 1
    alone = {m: frames[m] for m in ("text", "audio")}
    table = clips.tabulate(runs, frames, alone, classes=False)
    assert np.isnan(table.loc["video_0_0", ["audio", "disagreement"]].to_numpy(float)).all()
    assert np.isnan(table.loc["video_1_0", ["text+audio", "error"]].to_numpy(float)).all()
    assert table.loc["video_1_0", "label"] == frames["text"].loc["video_1_0", "label"]
    assert table.notna().all(axis=1).sum() == 118


def test_of_classes_the_most_frequent_counts(make_run: MakeRun) -> None:
    group = collect(str(make_run("run", "modalities=text")))
    ids = pd.Index(["a", "b"], name="id")
    one = pd.DataFrame({"label": [1.0, 2.0], "mean": 0.0, 0: [1.0, 0], 1: [1.0, 2], 2: 2.0}, ids)
    other = one.assign(**{"0": 0.0}).drop(columns=[0, 1, 2])
    table = clips.tabulate(group, {"text": one}, {"text": one, "audio": other}, classes=True)
    assert table.loc["a"].to_dict() == {
        "label": 1, "error": 0, "disagreement": 1, "text": 1, "audio": 0,
    }  # fmt: skip
    assert table.loc["b", "text"] == 2


def test_missing_seeds(make_run: MakeRun) -> None:
    for m, seed in (("text", 0), ("text", 1), ("text", 4), ("audio", 1)):
        folder = make_run(f"{m}-{seed}", f"modalities={m}", seed=seed)
    assert clips.missing_seeds(collect(str(folder.parent))) == {"audio": [0, 4]}


def test_transcripts_come_from_the_source_of_the_data(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tmp_path / "mosi" / "mosi_labels.csv"
    labels.parent.mkdir()
    labels.write_text(
        "video_id,clip,label,text,split,start,end\n"
        "video,1,0.5,nice & short,train,0,1\nvideo,2,0.5,,train,1,2\n"
    )
    folder = make_run("run", "modalities=text")
    config = folder / "config.yaml"
    source = (
        "  source:\n    _target_: msa_lightning.datasets.transcript_csv.TranscriptCsv\n"
        f"    corpus: mosi\n    path: {labels}\n    columns: {{video: [video_id], clip: [clip],"
        " label: [label], text: [text], split: [split], start: [start], end: [end]}\n"
    )
    config.write_text(config.read_text().replace("\ndata:\n", f"\ndata:\n{source}"))
    runs = collect(str(folder))
    assert clips.transcripts(runs, runs.groups) == {"video_1": "nice & short"}
    labels.unlink()
    assert clips.transcripts(runs, runs.groups) == {}


def test_transcripts_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "said.csv"
    path.write_text("id,label,text\n007_1,1,NA\n-x_2,2,\n")
    assert clips.read_transcripts(path) == {"007_1": "NA", "-x_2": ""}
    path.write_text("clip,text\n1,a\n")
    with pytest.raises(DataError, match="columns id, text"):
        clips.read_transcripts(path)
