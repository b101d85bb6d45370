"""Adapters before a frozen base model: what they learn from, and that they train."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from msa_lightning.adapters import spaces
from msa_lightning.datasets.loader import BatchSampler
from msa_lightning.modules.adapter import AdapterModule
from msa_lightning.run import LoadedRun, load_run
from tests.integration.bench import WATCH, Bench, Watch, assert_equal, content, weights


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_frozen_means_frozen(bench: Bench, tmp_path: Path, modality: str) -> None:
    before, files = load_run(bench.base).module.net.state_dict(), content(bench.base)
    assert {name.rsplit(".")[-1] for name in before} >= {"running_mean", "num_batches_tracked"}
    run = bench.adapt(tmp_path / "a", "alignment=task", WATCH, modality=modality)
    assert_equal(before, Watch.module.net.base.state_dict())
    assert not any(name.startswith("base") for name in weights(run.dir))
    assert content(bench.base) == files


def test_an_adapter_learns_through_the_frozen_base(bench: Bench, tmp_path: Path) -> None:
    longer = ("alignment=task", "trainer.max_epochs=40", "adapter.dropout=0", "optimizer.lr=0.1")
    losses = bench.adapt(tmp_path / "a", *longer, "data.batch_size=12").history["train/loss"]
    assert losses.iloc[-1] < 0.75 * losses.iloc[0]


def test_gradients_come_from_training_clips_alone(
    bench: Bench, tmp_path: Path, taught: set[str]
) -> None:
    both = ("alignment.task=1", "pairing=paired")
    bench.transfer(tmp_path / "t", *both)
    assert taught == {f"v{v}_{n}" for v in range(6) for n in (1, 2)}  # each has text or sound
    assert not taught & bench.valid_and_test


def test_targets_are_training_clips_of_the_base_run(bench: Bench, tmp_path: Path) -> None:
    bench.adapt(tmp_path / "a", "pairing=paired", WATCH)
    train = load_run(bench.base).datamodule.dataset("train")
    known = {tuple(x) for x in train.features["text"][:, 0].tolist()}
    assert {tuple(x) for x in Watch.module.targets.tolist()} <= known
    pairs = Watch.module.pairing.pairs
    assert len(pairs) == len(Watch.module.rows) == 11  # v1_1 says nothing
    own = dict(zip(train.ids, train.features["text"][:, 0], strict=True))
    for clip, row in Watch.module.rows.items():
        assert torch.equal(pairs[row], own[clip])


def test_a_share_is_whole_videos_and_lies_in_every_larger_one(
    bench: Bench, tmp_path: Path, taught: set[str]
) -> None:
    shares = []
    for share in (0.25, 0.5, 1.0):
        taught.clear()
        bench.adapt(tmp_path / str(share), f"share={share}", "alignment=task")
        shares.append(set(taught))
    small, half, whole = shares
    assert small < half < whole
    assert not whole & bench.valid_and_test
    assert 6 <= len(half) <= 7  # half of 11, rounded, or one more: a video has up to two
    videos = {clip.split("_")[0] for clip in half}
    assert half == {clip for clip in whole if clip.split("_")[0] in videos}


def test_a_transductive_adapter_sees_every_clip_and_no_label_but_those_of_training(
    bench: Bench, tmp_path: Path, taught: set[str]
) -> None:
    train = bench.adapt(tmp_path / "train", "alignment=task").provenance["data"]
    assert train["transductive"] is False
    own = set(taught)
    taught.clear()
    objective = ["alignment=task", "alignment.mse=1"]
    run = bench.adapt(tmp_path / "all", *objective, "transductive=true")
    assert run.provenance["data"]["transductive"] is True
    rest = taught - own
    assert bench.valid_and_test == rest
    assert not any(value.isnan().any() for value in weights(run.dir).values())
    moved = bench.transfer(tmp_path / "t", f"adapters.text={run.dir}", "modalities=text")
    assert moved.provenance["data"]["transductive"] is True


@pytest.mark.parametrize("pairing", ["random", "centroid", "label_matched", "paired"])
def test_every_pairing_trains(bench: Bench, tmp_path: Path, pairing: str) -> None:
    few = ("pairing.centroids=3",) if pairing == "centroid" else ()
    few = ("pairing.neighbours=2",) if pairing == "label_matched" else few
    run = bench.adapt(tmp_path / "a", f"pairing={pairing}", *few)
    assert_is_a_run(run)


@pytest.mark.parametrize("term", ["mean", "coral", "mmd", "sliced_wasserstein", "task"])
def test_every_term_trains(bench: Bench, tmp_path: Path, term: str) -> None:
    chosen = "alignment=coral" if term == "mean" else f"alignment={term}"
    assert_is_a_run(bench.adapt(tmp_path / "a", chosen, f"alignment.{term}=1"))


def assert_is_a_run(run: LoadedRun) -> None:
    names = {str(path.relative_to(run.dir)) for path in run.dir.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml",
        "provenance.json",
        "metrics.json",
        "history.csv",
        "normaliser.npz",
        "target_normaliser.npz",
        "checkpoints/last.ckpt",
        "variance_ratio.csv",
        "train.log",
    }
    ratios = pd.read_csv(run.dir / "variance_ratio.csv", index_col="dimension")
    for split, ratio in ratios.items():
        assert ratio.median() == pytest.approx(run.metrics[split]["variance_ratio"])
    assert run.history["train/loss"].notna().all()
    assert weights(run.dir)["text.layers.1.num_batches_tracked"] == 6  # two epochs of three batches
    train = run.metrics["train"]
    assert train["loss"] == pytest.approx(run.history["train/loss"].iloc[-1])
    spread = {"variance_ratio", "variance_ratio_q25", "variance_ratio_q75"}
    distances = {"coral", "coral_before", "mmd", "mmd_before", "neighbour_overlap", "r2"}
    counts = {"clips", "taught", "targets", "parameters"}
    assert train.keys() == spread | distances | counts | {"loss"}
    assert run.metrics["valid"].keys() == spread | distances | {"clips"}
    assert not any(math.isnan(x) for x in (*train.values(), *run.metrics["valid"].values()))
    assert train["coral"] != train["coral_before"]
    assert train["parameters"] == sum(x.numel() for n, x in weights(run.dir).items() if trained(n))
    assert (train["clips"], train["taught"], train["targets"]) == (11, 11, 8)
    terms = [c for c in run.history if c.startswith("gradient_norm/")]
    assert terms
    assert (run.history[terms] > 0).all(axis=None)


def trained(name: str) -> bool:
    """Whether a number of a checkpoint is a parameter, not a statistic of batch norm."""
    return not name.rsplit(".", 1)[-1].startswith(("running", "num"))


def test_a_sum_of_terms_is_their_weighted_sum(bench: Bench, tmp_path: Path) -> None:
    one = ("trainer.max_epochs=1", "optimizer.lr=0", "alignment=mse", "pairing=paired")
    changes = {"a": "1", "b": "0", "c": "0.5"}
    other = {"a": "0", "b": "1", "c": "2"}
    losses = {
        name: bench.adapt(
            tmp_path / name, *one, f"alignment.mse={mse}", f"alignment.task={other[name]}"
        ).metrics["train"]["loss"]
        for name, mse in changes.items()
    }
    assert losses["c"] == pytest.approx(0.5 * losses["a"] + 2 * losses["b"], rel=1e-5)
    history = load_run(tmp_path / "c").history.iloc[0]
    assert history["train/loss_mse"] == pytest.approx(0.5 * losses["a"], rel=1e-5)
    assert history["train/loss_task"] == pytest.approx(2 * losses["b"], rel=1e-5)
    alone = [load_run(tmp_path / name).history.iloc[0] for name in ("a", "b")]
    for factor, term, run in ((0.5, "mse", alone[0]), (2, "task", alone[1])):
        norm = f"gradient_norm/{term}"
        assert history[norm] == pytest.approx(factor * run[norm], rel=1e-4)


def test_random_targets_do_not_follow_the_order_of_clips(bench: Bench, tmp_path: Path) -> None:
    bench.adapt(tmp_path / "a", WATCH)
    module, same = Watch.module, 0
    module.trainer = None  # its epoch is 0 from here on
    for seed in range(100):
        module.seed = seed
        module.on_train_epoch_start()
        target = torch.randint(11, (1,), generator=module.generator).item()
        same += target == next(iter(BatchSampler(11, 4, seed=seed)))[0]
    assert same < 30  # 9 expected; with one source of random numbers all 100


def test_an_adapter_does_not_depend_on_what_was_in_the_cache(
    bench: Bench, adapters: dict[str, LoadedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = spaces.counterparts

    def extracting(*arguments: Any) -> dict[str, torch.Tensor]:
        torch.rand(7)  # as the constructor of a network does
        return original(*arguments)

    monkeypatch.setattr(spaces, "counterparts", extracting)
    assert_equal(weights(bench.adapt(tmp_path / "a").dir), weights(adapters["text"].dir))


def interrupt(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    original = AdapterModule._weighted

    def second_step_fails(module: AdapterModule, batch: Any) -> dict[str, torch.Tensor]:
        if module.current_epoch == epoch and module._losses:
            raise InterruptedError
        return original(module, batch)

    monkeypatch.setattr(AdapterModule, "_weighted", second_step_fails)


@pytest.mark.parametrize("pairing", ["random", pytest.param("centroid", marks=pytest.mark.slow)])
def test_resume_equals_uninterrupted(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairing: str
) -> None:
    options = (f"pairing={pairing}", "alignment.sliced_wasserstein=1", "trainer.max_epochs=3")
    options += ("pairing.centroids=3",) if pairing == "centroid" else ()
    whole = bench.adapt(tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(InterruptedError):
            bench.adapt(tmp_path / "cut", *options)
    assert not (tmp_path / "cut" / "metrics.json").exists()
    cut = bench.adapt(tmp_path / "cut", *options)
    assert_equal(weights(whole.dir), weights(cut.dir))
    assert whole.history.equals(cut.history)
    assert whole.metrics == cut.metrics
    assert len(cut.provenance["starts"]) == 2


@pytest.mark.slow
def test_resume_beside_another_equals_uninterrupted(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = bench.adapt(tmp_path / "text", "alignment=task")
    options = ("alignment=task", f"beside.text={text.dir}", "alone=0.5", "trainer.max_epochs=6")
    whole = bench.adapt(tmp_path / "whole", *options, modality="audio")
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(InterruptedError):
            bench.adapt(tmp_path / "cut", *options, modality="audio")
    cut = bench.adapt(tmp_path / "cut", *options, modality="audio")
    assert_equal(weights(whole.dir), weights(cut.dir))


def test_stopped_after_the_last_epoch_has_the_same_metrics(bench: Bench, tmp_path: Path) -> None:
    run = bench.adapt(tmp_path / "a")
    before = run.metrics
    (run.dir / "metrics.json").unlink()
    assert bench.adapt(tmp_path / "a").metrics == before


def test_a_finished_adapter_is_not_trained_again(
    bench: Bench, adapters: dict[str, LoadedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(adapters["text"].dir)
    monkeypatch.setattr(AdapterModule, "training_step", None)
    bench.adapt(adapters["text"].dir)
    assert content(adapters["text"].dir) == before


def test_shuffled_teaches_with_labels_and_counterparts_of_other_clips(
    bench: Bench, tmp_path: Path
) -> None:
    both = ("pairing=paired", "alignment.task=1", WATCH)
    bench.adapt(tmp_path / "a", *both)
    own = Watch.module.pairing.pairs
    bench.adapt(tmp_path / "b", *both, "control=shuffled")
    others = Watch.module.pairing.pairs
    assert not torch.equal(own, others)
    assert sorted(own.tolist()) == sorted(others.tolist())


def test_untrained_is_the_adapter_as_it_began(bench: Bench, tmp_path: Path) -> None:
    still = ("optimizer.lr=0", "trainer.max_epochs=1", "adapter.hidden=[]")
    run = bench.adapt(tmp_path / "a", "control=untrained", "adapter.hidden=[]")
    assert_equal(weights(run.dir), weights(bench.adapt(tmp_path / "b", *still).dir))
    assert run.metrics["train"]["coral"] == run.metrics["train"]["coral_before"]
    other = bench.adapt(tmp_path / "c", "adapter.hidden=[]", "optimizer.lr=0.1")
    for name in ("coral", "mmd"):  # measured before the training, then after it
        before = other.metrics["valid"][f"{name}_before"]
        assert before == run.metrics["valid"][name] != other.metrics["valid"][name]
    assert bench.adapt(tmp_path / "a", "control=untrained", "adapter.hidden=[]").dir == run.dir
