"""A transfer run: the frozen base model behind its adapters, evaluated and used like any run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from msa_lightning.adapters.composed import Composed
from msa_lightning.datasets.raw_input import read_input
from msa_lightning.evaluate import evaluate
from msa_lightning.modules.adapter import AdapterModule
from msa_lightning.predict import predict
from msa_lightning.run import LoadedRun, load_run, run_context
from msa_lightning.transfer import transfer
from tests.integration.bench import TARGETS, Bench, assert_equal, content, weights
from tests.smoke.conftest import environment


def test_a_transfer_is_a_run_like_any_other(bench: Bench, moved: LoadedRun) -> None:
    stored = moved.metrics
    assert set(moved.predictions["split"]) == stored.keys() - {"test_mean_predictor"}
    assert evaluate(load_run(moved.dir), device="cpu", again=False) == stored["test"]
    assert evaluate(load_run(moved.dir), device="cpu", again=True) == stored["test"]
    assert moved.provenance["seed"] == 0
    assert list(moved.provenance["data"]["builds_on"]) == [str(bench.base)]


def test_a_transfer_scores_raw_media(bench: Bench, moved: LoadedRun, tmp_path: Path) -> None:
    stored = moved.predictions.query("split == 'test'").set_index("id")["prediction"]
    wav = bench.corpus / "Raw/Audio/WAV_16000/Segmented/v8_1.wav"
    text = (bench.corpus / "Raw/Transcript/Segmented/v8.annotprocessed").read_text()
    said = text.splitlines()[0].split("_DELIM_")[1]
    options = {"transcripts": None, "asr": False, "asr_model": None, "cut": "none"}
    manifest = read_input(wav, text=said, max_clip_s=20.0, window_s=8.0, **options)  # type: ignore[arg-type]
    scores = predict(load_run(moved.dir), manifest, cache=str(tmp_path / "cache"), workers=0)
    assert scores["score"].tolist() == pytest.approx([stored["v8_1"]], abs=1e-5)
    assert {"contribution_text", "contribution_audio"} <= set(scores)


def test_subsets_are_what_is_left_when_the_others_are_masked(moved: LoadedRun) -> None:
    assert {"test_text", "test_audio"} <= moved.metrics.keys()
    [batch] = moved.datamodule.ordered_dataloader("test")
    masks = {"text": batch.masks["text"], "audio": torch.zeros_like(batch.masks["audio"])}
    with torch.inference_mode():
        masked = moved.module.net(batch.replace(masks=masks)).predictions["sentiment"]
    stored = moved.predictions.query("split == 'test_text'").set_index("id")["prediction"]
    assert stored[list(batch.ids)].tolist() == masked[:, 0].tolist()
    whole = moved.predictions.query("split == 'test'").set_index("id")["prediction"]
    assert not stored.equals(whole)


def test_the_base_run_is_not_written_to(bench: Bench, tmp_path: Path) -> None:
    before = content(bench.base)
    run = bench.transfer(tmp_path / "t", "alignment=task")
    evaluate(load_run(run.dir), device="cpu", again=True)
    assert content(bench.base) == before
    net = run.module.net
    assert isinstance(net, Composed)
    assert_equal(load_run(bench.base).module.net.state_dict(), net.base.state_dict())


def test_given_adapters_equal_those_trained_inside(
    bench: Bench, adapters: dict[str, LoadedRun], moved: LoadedRun, tmp_path: Path
) -> None:
    for m, run in adapters.items():
        assert_equal(weights(run.dir), weights(moved.dir / "adapters" / m))
    given = [f"adapters.{m}={os.path.relpath(run.dir)}" for m, run in adapters.items()]
    run = bench.transfer(tmp_path / "t", *given)
    assert Path(run.cfg.adapters.text).is_absolute()  # the run can be used from anywhere
    assert run.metrics == moved.metrics
    assert not (run.dir / "adapters").exists()
    assert len(run.provenance["data"]["builds_on"]) == 3


@pytest.mark.slow
def test_a_given_adapter_keeps_its_own_size(bench: Bench, tmp_path: Path) -> None:
    adapter = bench.adapt(tmp_path / "a", "adapter.hidden=[5,6]")
    run = bench.transfer(tmp_path / "t", f"adapters.text={adapter.dir}")
    layers = run.module.net.adapters["text"].layers  # type: ignore[union-attr, index]
    assert [layer.out_features for layer in layers if hasattr(layer, "out_features")] == [5, 6, 3]


def test_a_second_transfer_does_nothing(
    bench: Bench, moved: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(moved.dir)
    monkeypatch.setattr(AdapterModule, "training_step", None)
    monkeypatch.setattr("msa_lightning.scoring.score", None)
    bench.transfer(moved.dir)
    assert content(moved.dir) == before


@pytest.mark.slow
def test_again_begins_from_the_start(bench: Bench, tmp_path: Path) -> None:
    first = bench.transfer(tmp_path / "t")
    before = first.metrics
    (first.dir / "adapters" / "text" / "checkpoints" / "last.ckpt").write_bytes(b"damaged")
    assert bench.transfer(tmp_path / "t", "again=true").metrics == before


@pytest.mark.slow
def test_a_killed_transfer_keeps_the_adapters_it_has_trained(
    bench: Bench, moved: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("msa_lightning.scoring.score", None)
        with pytest.raises(TypeError):
            bench.transfer(tmp_path / "t")
    monkeypatch.setattr(AdapterModule, "training_step", None)
    assert bench.transfer(tmp_path / "t").metrics == moved.metrics


@pytest.mark.slow
@pytest.mark.parametrize("control", ["untrained", "shuffled", "oracle"])
def test_controls(bench: Bench, moved: LoadedRun, tmp_path: Path, control: str) -> None:
    run = bench.transfer(tmp_path / "t", f"control={control}", "pairing=paired")
    assert evaluate(load_run(run.dir), device="cpu", again=True) == run.metrics["test"]
    assert run.metrics["test_mean_predictor"]["mae"] == moved.metrics["test_mean_predictor"]["mae"]
    assert run.metrics["test"]["mae"] != moved.metrics["test"]["mae"]
    if control == "untrained":
        history = run.dir / "adapters" / "text" / "history.csv"
        assert not history.exists()


def test_the_oracle_is_the_base_run_where_both_have_the_same_clips(
    bench: Bench, tmp_path: Path
) -> None:
    copy = tmp_path / "base"
    shutil.copytree(bench.base, copy)
    own = evaluate(load_run(copy), device="cpu", again=True)
    run = bench.transfer(tmp_path / "t", "control=oracle")
    assert run.metrics["test"] == own
    assert run.provenance["data"]["extractors"]["audio"]["size"] == 29


@pytest.mark.slow
def test_the_oracle_sees_no_more_modalities_than_the_transfer(bench: Bench, tmp_path: Path) -> None:
    both = bench.transfer(tmp_path / "both", "control=oracle")
    text = bench.transfer(tmp_path / "text", "control=oracle", "modalities=text")
    assert text.metrics["test"]["mae"] == pytest.approx(both.metrics["test_text"]["mae"], rel=1e-6)


@pytest.mark.slow
def test_config_reproduces_the_transfer(moved: LoadedRun, tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(moved.dir), version_base="1.3"):
        cfg = compose("config", [f"paths.run={tmp_path / 'b'}"])
    with run_context(cfg) as run:
        transfer(run)
    assert load_run(tmp_path / "b").metrics == moved.metrics
    assert_equal(weights(moved.dir), weights(tmp_path / "b"))


@pytest.mark.slow
def test_a_base_of_pre_extracted_features_scores_raw_media(
    bench: Bench, prepared_base: Path, tmp_path: Path
) -> None:
    run = bench.transfer(tmp_path / "t", f"base={prepared_base}")
    assert run.provenance["data"]["synthetic"] is True  # the base run's are
    adapter = load_run(run.dir / "adapters" / "text")
    assert adapter.metrics["valid"]["r2"] != adapter.metrics["valid"]["r2"]  # NaN: no pairs
    assert evaluate(load_run(run.dir), device="cpu", again=True) == run.metrics["test"]


@pytest.mark.slow
def test_a_sweep_of_adapters_as_a_command(bench: Bench, tmp_path: Path) -> None:
    def msa(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", f"msa_lightning.{name}", *arguments]
        options = [o for o in bench.options(tmp_path) if not o.startswith("paths.run")]
        surroundings = environment(bench.folder / "prepared")
        return subprocess.run(
            [*command, *options, f"base={bench.base}", *TARGETS],
            cwd=tmp_path,
            env=surroundings,
            text=True,
            capture_output=True,
            timeout=300,
        )

    done = msa("adapt", "-m", "adapter=text,audio", "adapter.hidden=[8]")
    assert done.returncode == 0, done.stderr
    runs = {load_run(p).cfg.modality: p for p in tmp_path.glob("runs/mosi/*")}
    assert set(runs) == {"text", "audio"}
    assert "text adapter: 5 to 3, 91 parameters" in done.stdout  # 5·8 + 8, 2·8, 8·3 + 3
    given = [f"adapters.{m}={path.relative_to(tmp_path)}" for m, path in runs.items()]
    done = msa("transfer", *given, "modalities=text_audio", "paths.run=composed")
    assert done.returncode == 0, done.stderr
    assert "test_mean_predictor" in done.stdout
    done = msa("transfer", *given, "modalities=text", "paths.run=other")
    assert done.returncode == 2
    assert done.stderr.startswith("error: adapters.audio: modalities is text")
    assert "Traceback" not in done.stderr
