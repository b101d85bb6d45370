"""What a run leaves behind, and what can be made of it."""

import json
import math
import shutil
from pathlib import Path

import h5py
import pytest
import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning import Trainer

from msa_lightning.errors import ConfigError, DataError
from msa_lightning.evaluate import evaluate
from msa_lightning.modules.fusion import FusionModule
from msa_lightning.resume import ExactResume
from msa_lightning.run import load_run, run_context
from msa_lightning.train import train

from .configure import configure
from .conftest import Train


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return checkpoint["state_dict"]  # type: ignore[no-any-return]


def assert_equal_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def test_run_folder_is_complete(train_demo: Train) -> None:
    run = train_demo("a")
    names = {str(path.relative_to(run.dir)) for path in run.dir.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml",
        "provenance.json",
        "metrics.json",
        "predictions.parquet",
        "history.csv",
        "normaliser.npz",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "train.log",
    }
    provenance = json.loads((run.dir / "provenance.json").read_text())
    assert provenance["data"]["synthetic"] is True
    assert len(provenance["data"]["digest"]) == 64
    assert provenance["seed"] == 0
    columns = {f"{s}/{m}" for s in ("train", "valid") for m in ("loss", "mae", "corr")}
    assert columns | {"gradient_norm/absolute", "gradient_norm/correlation"} <= {*run.history}
    assert run.history.index.tolist() == [0, 1, 2]
    assert run.history.notna().all(axis=None)


def test_stored_metrics_are_those_of_the_best_epoch(train_demo: Train) -> None:
    run = train_demo("a")
    best = run.history["valid/corr"].max()
    assert run.metrics["valid"]["corr"] == pytest.approx(best, abs=1e-6)
    rows = run.predictions.query("split == 'valid'")
    assert rows["prediction"].corr(rows["label"]) == pytest.approx(best, abs=1e-5)


def test_config_reproduces_the_run(train_demo: Train, tmp_path: Path) -> None:
    first = train_demo("a", "model.hidden=48", "optimizer.lr=0.002")
    with initialize_config_dir(str(first.dir), version_base="1.3"):
        cfg = compose("config", [f"paths.run={tmp_path / 'b'}"])
    with run_context(cfg) as run:
        train(run)
    assert_equal_weights(weights(first.dir), weights(tmp_path / "b"))
    assert load_run(tmp_path / "b").metrics == first.metrics


def test_loaded_run_predicts_as_stored(train_demo: Train) -> None:
    run = train_demo("a")
    [batch] = run.datamodule.ordered_dataloader("valid")
    with torch.inference_mode():
        prediction = run.module.net(batch).predictions["sentiment"]
    stored = run.predictions.query("split == 'valid'").set_index("id")["prediction"]
    assert stored[list(batch.ids)].tolist() == prediction[:, 0].tolist()


def test_finished_run_is_not_trained_again(
    train_demo: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_demo("a")
    monkeypatch.setattr(FusionModule, "training_step", None)
    assert train_demo("a").metrics == run.metrics


def test_again_trains_from_the_start(train_demo: Train) -> None:
    first = weights(train_demo("a").dir)
    assert_equal_weights(first, weights(train_demo("a", "again=true").dir))


@pytest.mark.parametrize("again", ["again=false", "again=true"])
def test_folder_of_another_run_is_refused_and_kept(train_demo: Train, again: str) -> None:
    run = train_demo("a")
    before = {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="another configuration"):
        train_demo("a", "seed=7", again)
    assert {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()} == before


def test_changed_data_is_noticed(train_demo: Train, prepared: Path, tmp_path: Path) -> None:
    copy = tmp_path / "prepared"
    copy.mkdir()
    shutil.copy(prepared / "demo.h5", copy)
    run = train_demo("a", f"paths.prepared={copy}")
    with h5py.File(copy / "demo.h5", "r+") as file:
        file.attrs["digest"] = "0" * 64
    with pytest.raises(DataError, match=r"demo\.h5: its content has changed since"):
        evaluate(load_run(run.dir), device="cpu", again=False)
    with pytest.raises(DataError, match="changed"):
        train_demo("a", f"paths.prepared={copy}")


def test_data_that_has_moved_is_found(train_demo: Train, prepared: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.copy(prepared / "demo.h5", old)
    run = train_demo("a", f"paths.prepared={old}")
    old.rename(new)
    moved = load_run(run.dir, {"data": "data", "prepared": str(new)})
    assert evaluate(moved, device="cpu", again=False)["mae"] > 0


class _StopError(Exception):
    pass


def _interrupt(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    original = FusionModule.training_step

    def step(module: FusionModule, batch: object, batch_idx: int) -> torch.Tensor:
        if (module.current_epoch, batch_idx) == (epoch, 2):
            raise _StopError
        return original(module, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(FusionModule, "training_step", step)


# A steep plateau schedule, so that losing one step of it shows.
SCHEDULE = ("scheduler.patience=0", "trainer.max_epochs=4", "scheduler.factor=0.1")


@pytest.mark.parametrize(
    "epoch", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(3, marks=pytest.mark.slow)]
)
def test_resume_equals_uninterrupted(
    train_demo: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, epoch: int
) -> None:
    whole = train_demo("whole", *SCHEDULE)
    with monkeypatch.context() as patch:
        _interrupt(patch, epoch)
        with pytest.raises(_StopError):
            train_demo("cut", *SCHEDULE)
    assert not (tmp_path / "cut" / "metrics.json").exists()
    cut = train_demo("cut", *SCHEDULE)
    assert_equal_weights(weights(whole.dir), weights(cut.dir))
    assert_equal_weights(weights(whole.dir, "best"), weights(cut.dir, "best"))
    assert whole.history.equals(cut.history)
    assert whole.metrics == cut.metrics


def test_a_run_killed_right_after_its_checkpoint_keeps_the_epoch_in_its_history(
    train_demo: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_demo("whole")
    original = ExactResume.on_train_epoch_end

    def stop(self: ExactResume, trainer: Trainer, module: FusionModule) -> None:
        original(self, trainer, module)
        if trainer.current_epoch == 1:
            raise _StopError

    with monkeypatch.context() as patch:
        patch.setattr(ExactResume, "on_train_epoch_end", stop)
        with pytest.raises(_StopError):
            train_demo("cut")
    cut = train_demo("cut")
    assert whole.history.equals(cut.history[whole.history.columns])


@pytest.mark.slow
def test_resume_in_a_moved_folder_keeps_the_best_epoch(
    train_demo: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ("optimizer.lr=0.05", "trainer.max_epochs=4")  # so high that it soon gets worse
    whole = train_demo("whole", *options)
    with monkeypatch.context() as patch:
        _interrupt(patch, 2)
        with pytest.raises(_StopError):
            train_demo("cut", *options)
    (tmp_path / "cut").rename(tmp_path / "moved")
    moved = train_demo("moved", *options)
    assert whole.history["valid/corr"].idxmax() < 2
    assert_equal_weights(weights(whole.dir, "best"), weights(moved.dir, "best"))


def test_resume_after_early_stopping_trains_no_further(train_demo: Train) -> None:
    options = ("callbacks.early_stopping.patience=1", "trainer.max_epochs=50", "optimizer.lr=0.5")
    run = train_demo("a", *options)
    before, history = weights(run.dir), run.history
    assert len(history) < 50
    (run.dir / "metrics.json").unlink()  # as if killed before the results were stored
    run = train_demo("a", *options)
    assert history.equals(run.history)
    assert_equal_weights(before, weights(run.dir))


@pytest.mark.slow
def test_resume_without_random_state_differs(
    train_demo: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above is sensitive to what it is there for."""
    without = (*SCHEDULE, "callbacks.last._target_=tests.integration.conftest.ForgetfulCheckpoint")
    whole = train_demo("whole", *without)
    with monkeypatch.context() as patch:
        _interrupt(patch, 1)
        with pytest.raises(_StopError):
            train_demo("cut", *without)
    cut = train_demo("cut", *without)
    a, b = weights(whole.dir), weights(cut.dir)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_evaluate_reads_the_test_split_once(
    train_demo: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_demo("a")
    assert "test" not in run.metrics
    first = evaluate(run, device="cpu", again=False)
    assert set(run.predictions["split"]) == {"train", "valid", "test"}
    baseline = run.metrics["test_mean_predictor"]
    assert math.isnan(baseline["corr"])
    assert baseline["mae"] > first["mae"]
    monkeypatch.setattr("msa_lightning.scoring.score", None)
    assert evaluate(load_run(run.dir), device="cpu", again=False) == first
    with pytest.raises(TypeError):
        evaluate(load_run(run.dir), device="cpu", again=True)


@pytest.mark.slow
def test_initial_weights_come_from_another_run(train_demo: Train) -> None:
    first = train_demo("a")
    second = train_demo("b", f"init_from={first.dir}", "optimizer.lr=0", "trainer.max_epochs=1")
    a, b = weights(first.dir, "best"), weights(second.dir)
    assert all(
        torch.equal(a[name], b[name]) for name in a if "running" not in name and "num_" not in name
    )


def test_damaged_checkpoint_is_named(train_demo: Train) -> None:
    run = train_demo("a")
    best = run.dir / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"best\.ckpt: cannot be loaded"):
        _ = load_run(run.dir).module


@pytest.mark.parametrize("model", ["concat", pytest.param("tfn", marks=pytest.mark.slow)])
def test_other_networks_train_in_the_same_module(train_demo: Train, model: str) -> None:
    run = train_demo("a", f"model={model}")
    assert run.metrics["train"]["loss"] < 1


def test_selection_none_keeps_the_last_epoch(train_demo: Train) -> None:
    run = train_demo("a", "selection=none", "optimizer.lr=0.003")
    assert not (run.dir / "checkpoints" / "best.ckpt").exists()
    assert run.history["lr"].nunique() == 1
    assert_equal_weights(weights(run.dir), run.module.state_dict())


@pytest.mark.parametrize(
    "precision",
    ["bf16-mixed", *(pytest.param(p, marks=pytest.mark.slow) for p in ("bf16-true", "64-true"))],
)
def test_precision_and_accumulation_are_plain_overrides(train_demo: Train, precision: str) -> None:
    full = train_demo("full", "trainer.accumulate_grad_batches=2")
    other = f"trainer.precision={precision}"
    run = train_demo("a", other, "trainer.accumulate_grad_batches=2")
    assert run.metrics["valid"]["mae"] == pytest.approx(full.metrics["valid"]["mae"], abs=0.05)
    assert run.provenance["starts"][0]["devices"]["precision"] == precision


@pytest.mark.slow
def test_compiled_network_trains_alike(train_demo: Train) -> None:
    options = ("model.dropout=0", "model.attention_dropout=0")
    plain, compiled = (
        train_demo("plain", *options),
        train_demo("compiled", *options, "compile=true"),
    )
    assert compiled.metrics["valid"]["mae"] == pytest.approx(
        plain.metrics["valid"]["mae"], abs=1e-3
    )


def test_combination_that_the_model_cannot_take(train_demo: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TFN needs text, audio and visual"):
        train_demo("a", "model=tfn", "modalities=text_audio")
    assert not (tmp_path / "a").exists()


def test_wrong_dims_leave_no_folder(train_demo: Train, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"features/audio has 74 columns, data\.dims\.audio is 5"):
        train_demo("a", "data.dims.audio=5")
    assert not (tmp_path / "a").exists()


def test_all_faults_of_a_configuration_at_once() -> None:
    faults = ("+optimizer.lrr=1", "+model.hiden=3", "+data.typo=1", "objective.monitor=accuracy")
    cfg = configure("train", "data=demo", *faults)
    with pytest.raises(ConfigError) as caught, run_context(cfg):
        pass
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "data",
        "model",
        "optimizer",
        "objective.monitor",
    ]
