"""What a run leaves behind, and what can be made of it."""

import json
import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from msa_lightning.errors import ConfigError, DataError
from msa_lightning.evaluate import evaluate
from msa_lightning.modules.fusion import FusionModule
from msa_lightning.run import load_run, run_context
from msa_lightning.train import train

from .conftest import Train, configure


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


def test_folder_of_another_run_is_refused(train_demo: Train) -> None:
    run = train_demo("a")
    (run.dir / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="another configuration"):
        train_demo("a", "seed=7")


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


@pytest.mark.parametrize("epoch", [0, 1, 3])
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


def test_resume_without_random_state_differs(
    train_demo: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above is sensitive to what it is there for."""
    without = (*SCHEDULE, "~callbacks.random_state")
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


@pytest.mark.parametrize("model", ["concat", "tfn"])
def test_other_networks_train_in_the_same_module(train_demo: Train, model: str) -> None:
    run = train_demo("a", f"model={model}")
    assert run.metrics["train"]["loss"] < 1


def test_selection_none_keeps_the_last_epoch(train_demo: Train) -> None:
    run = train_demo("a", "selection=none", "optimizer.lr=0.003")
    assert not (run.dir / "checkpoints" / "best.ckpt").exists()
    assert run.history["lr"].nunique() == 1
    assert_equal_weights(weights(run.dir), run.module.state_dict())


def test_precision_accumulation_and_compile_are_plain_overrides(train_demo: Train) -> None:
    run = train_demo("a", "trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2")
    assert run.metrics["valid"]["mae"] > 0


def test_combination_that_the_model_cannot_take(train_demo: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TFN needs text, audio and visual"):
        train_demo("a", "model=tfn", "modalities=text_audio")
    assert not (tmp_path / "a").exists()


def test_wrong_dims_leave_no_folder(train_demo: Train, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"features/audio has 74 columns, data\.dims\.audio is 5"):
        train_demo("a", "data.dims.audio=5")
    assert not (tmp_path / "a").exists()


def test_all_faults_of_a_configuration_at_once() -> None:
    cfg = configure("train", "data=demo", "+optimizer.lrr=1", "+model.hiden=3", "+data.typo=1")
    with pytest.raises(ConfigError) as caught, run_context(cfg):
        pass
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "data",
        "model",
        "optimizer",
    ]
