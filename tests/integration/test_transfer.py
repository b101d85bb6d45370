"""Adapters before a frozen base model: trained, composed, evaluated, used like any run."""

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from msa_lightning.adapt import adapt
from msa_lightning.adapters import spaces
from msa_lightning.adapters.composed import Composed
from msa_lightning.datasets.loader import BatchSampler
from msa_lightning.datasets.raw_input import read_input
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.evaluate import evaluate
from msa_lightning.modules.adapter import AdapterModule
from msa_lightning.predict import predict
from msa_lightning.run import LoadedRun, load_run, run_context
from msa_lightning.train import train
from msa_lightning.transfer import transfer
from tests.integration.bench import TARGETS, Bench
from tests.integration.configure import configure
from tests.smoke.conftest import environment

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def adapters(bench: Bench) -> dict[str, LoadedRun]:
    """An adapter run for each modality."""
    return {m: bench.adapt(bench.folder / f"adapter_{m}", modality=m) for m in ("text", "audio")}


@pytest.fixture(scope="module")
def moved(bench: Bench) -> LoadedRun:
    """A transfer run that trained its adapters itself."""
    return bench.transfer(bench.folder / "moved")


class Watch(Callback):
    """Keeps the last module that was trained."""

    module: Any = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Watch.module = pl_module


WATCH = "+callbacks.watch._target_=tests.integration.test_transfer.Watch"


def weights(run: Path) -> Weights:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"]  # type: ignore[no-any-return]


def assert_equal(a: Weights, b: Weights) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Adapters


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
        "train.log",
    }
    assert run.history["train/loss"].notna().all()
    assert weights(run.dir)["text.layers.1.num_batches_tracked"] == 6  # two epochs of three batches
    train = run.metrics["train"]
    assert train["loss"] == pytest.approx(run.history["train/loss"].iloc[-1])
    spread = {"variance_ratio", "variance_ratio_q25", "variance_ratio_q75"}
    distances = {"coral", "coral_before", "mmd", "mmd_before", "neighbour_overlap", "r2"}
    counts = {"clips", "targets", "parameters"}
    assert train.keys() == spread | distances | counts | {"loss"}
    assert run.metrics["valid"].keys() == spread | distances | {"clips"}
    assert not any(math.isnan(x) for x in (*train.values(), *run.metrics["valid"].values()))
    assert train["coral"] != train["coral_before"]
    assert train["parameters"] == sum(x.numel() for n, x in weights(run.dir).items() if trained(n))
    assert (train["clips"], train["targets"]) == (11, 8)
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


@pytest.mark.parametrize("pairing", ["random", "centroid"])
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


# Transfer


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
    given = [f"adapters.{m}={run.dir}" for m, run in adapters.items()]
    run = bench.transfer(tmp_path / "t", *given)
    assert run.metrics == moved.metrics
    assert not (run.dir / "adapters").exists()
    assert len(run.provenance["data"]["builds_on"]) == 3


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


def test_the_oracle_sees_no_more_modalities_than_the_transfer(bench: Bench, tmp_path: Path) -> None:
    both = bench.transfer(tmp_path / "both", "control=oracle")
    text = bench.transfer(tmp_path / "text", "control=oracle", "modalities=text")
    assert text.metrics["test"]["mae"] == pytest.approx(both.metrics["test_text"]["mae"], rel=1e-6)


def test_config_reproduces_the_transfer(moved: LoadedRun, tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(moved.dir), version_base="1.3"):
        cfg = compose("config", [f"paths.run={tmp_path / 'b'}"])
    with run_context(cfg) as run:
        transfer(run)
    assert load_run(tmp_path / "b").metrics == moved.metrics
    assert_equal(weights(moved.dir), weights(tmp_path / "b"))


# Pre-extracted features on the other side


@pytest.fixture(scope="module")
def prepared_base(bench: Bench, prepared: Path) -> Path:
    """A base run on a prepared file: other clips, all three modalities, nothing to extract with."""
    folder = bench.folder / "prepared_base"
    fixed = ["data=demo", f"paths.prepared={prepared}", f"paths.run={folder}", "model.hidden=8"]
    fixed += ["trainer.max_epochs=1", "+trainer.enable_progress_bar=false", "~callbacks.progress"]
    with run_context(configure("train", *fixed)) as run:
        train(run)
    return folder


def test_a_base_of_pre_extracted_features_scores_raw_media(
    bench: Bench, prepared_base: Path, tmp_path: Path
) -> None:
    run = bench.transfer(tmp_path / "t", f"base={prepared_base}")
    assert run.provenance["data"]["synthetic"] is True  # the base run's are
    adapter = load_run(run.dir / "adapters" / "text")
    assert adapter.metrics["valid"]["r2"] != adapter.metrics["valid"]["r2"]  # NaN: no pairs
    assert evaluate(load_run(run.dir), device="cpu", again=True) == run.metrics["test"]


# Bad input


@pytest.fixture
def copy_base(bench: Bench, tmp_path: Path) -> Path:
    shutil.copytree(bench.base, tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["targets=500"], "targets: 500 asked for, but .* has 11 training clips with text"),
        (["targets=1"], "at least 2"),
        (["share=0"], "share: 0 is not above 0"),
        (["share=1.5"], "share: 1.5 is not above 0 and at most 1"),
        (["control=random"], "control: 'random' is not untrained or shuffled"),
        (["alignment.mse=0"], "every weight is 0"),
        (["data.targets.sentiment.range=[-4,4]"], r"in \[-4.0, 4.0\], but .* in \[-3.0, 3.0\]"),
        (["data.aggregate=sequence"], "data.aggregate=mean"),
        (["trainer.precision=bf16-mixed"], "full precision"),
        (["trainer.gradient_clip_val=0.5"], "without clipping"),
        (["trainer.accumulate_grad_batches=2"], "a step for each batch"),
    ],
)
def test_bad_settings(bench: Bench, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        bench.adapt(tmp_path / "a", *overrides)
    assert not (tmp_path / "a").exists()


def test_a_modality_that_the_base_does_not_know(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"visual: .* was trained on text, audio alone"):
        bench.adapt(tmp_path / "a", modality="visual")
    with pytest.raises(ConfigError, match=r"visual: .* was trained on text, audio alone"):
        bench.transfer(tmp_path / "t", "modalities=text_audio_visual")
    assert list(tmp_path.iterdir()) == []


def test_pairs_that_do_not_exist(bench: Bench, prepared_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose another pairing"):
        bench.adapt(tmp_path / "a", f"base={prepared_base}", "pairing=paired")
    with pytest.raises(ConfigError, match=r"control=oracle: .* cannot be had"):
        bench.transfer(tmp_path / "t", f"base={prepared_base}", "control=oracle")
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_training_clips(bench: Bench, prepared: Path, tmp_path: Path) -> None:
    shutil.copy(prepared / "demo.h5", tmp_path)
    with h5py.File(tmp_path / "demo.h5", "r+") as file:
        splits = file["split"].asstr()[()]
        splits[splits == "train"] = "none"
        file["split"][...] = splits
    source = ["data=demo", f"paths.prepared={tmp_path}", f"base={bench.base}", *TARGETS]
    fixed = ["adapter=text", f"paths.run={tmp_path / 'a'}", "~callbacks.progress"]
    with (
        pytest.raises(DataError, match="no clips in split 'train'"),
        run_context(configure("adapt", *source, *fixed)) as run,
    ):
        adapt(run)
    assert not (tmp_path / "a").exists()


def test_labels_that_are_not_there(bench: Bench, tmp_path: Path, copy_base: Path) -> None:
    config = (copy_base / "config.yaml").read_text()
    (copy_base / "config.yaml").write_text(config.replace("sentiment", "valence"))
    with pytest.raises(DataError, match=r"no valence, which .* was trained to predict"):
        bench.transfer(tmp_path / "t", f"base={copy_base}")


def test_labels_on_another_scale(
    bench: Bench, adapters: dict[str, LoadedRun], tmp_path: Path
) -> None:
    given = [f"adapters.{m}={run.dir}" for m, run in adapters.items()]
    for limits, remedy in (
        ("[-2,4]", "bring them to one scale"),
        ("[-6,6]", r"\+data\.targets\.sentiment\.scale=0\.5"),
    ):
        with pytest.raises(DataError, match=r"labels lie in .* trained on labels in .*" + remedy):
            bench.transfer(tmp_path / "t", *given, f"data.targets.sentiment.range={limits}")
        assert not (tmp_path / "t").exists()


def test_labels_on_another_scale_are_mapped_if_that_is_asked_for(
    bench: Bench, moved: LoadedRun, tmp_path: Path
) -> None:
    """The corpus once more, rated in [-1, 1]."""
    labels = pd.read_csv(bench.corpus / "labels.csv", dtype={"video_id": str, "clip_id": str})
    labels["label"] /= 3
    labels.to_csv(tmp_path / "labels.csv", index=False)
    scale = ("data.targets.sentiment.range=[-1,1]", "+data.targets.sentiment.scale=3")
    run = bench.transfer(tmp_path / "t", f"data.source.labels={tmp_path}/labels.csv", *scale)
    assert run.metrics["test"] == pytest.approx(moved.metrics["test"], rel=1e-4)


@pytest.mark.slow
def test_a_base_without_checkpoint(bench: Bench, tmp_path: Path, copy_base: Path) -> None:
    last = copy_base / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    for job in (bench.adapt, bench.transfer):
        with pytest.raises(DataError, match=r"last\.ckpt: cannot be loaded"):
            job(tmp_path / "a", f"base={copy_base}")
    last.unlink()
    for job in (bench.adapt, bench.transfer):
        with pytest.raises(DataNotFoundError, match=r"last\.ckpt: no such checkpoint"):
            job(tmp_path / "a", f"base={copy_base}")
    assert not (tmp_path / "a").exists()


def test_a_base_that_is_none(bench: Bench, adapters: dict[str, LoadedRun], tmp_path: Path) -> None:
    for job in (bench.adapt, bench.transfer):
        with pytest.raises(ConfigError, match="run without a model of its own"):
            job(tmp_path / "a", f"base={adapters['text'].dir}")
        with pytest.raises(DataNotFoundError, match=r"nowhere: no run there"):
            job(tmp_path / "a", f"base={tmp_path}/nowhere")


@pytest.mark.slow
def test_weights_that_changed_since(bench: Bench, tmp_path: Path, copy_base: Path) -> None:
    adapter = bench.adapt(tmp_path / "a", f"base={copy_base}")
    given = (f"adapters.text={adapter.dir}", "modalities=text")
    bench.transfer(tmp_path / "t", *given)
    bench.adapt(tmp_path / "a", f"base={copy_base}", "again=true")
    bench.transfer(tmp_path / "t", *given)  # trained again to the same weights
    path = adapter.dir / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {k: v + 1 for k, v in weights(adapter.dir).items()}}, path)
    with pytest.raises(DataError, match="weights have changed since"):
        bench.transfer(tmp_path / "t", *given)
    bench.transfer(tmp_path / "t", *given, "again=true")


def test_adapters_that_do_not_fit(
    bench: Bench, adapters: dict[str, LoadedRun], prepared_base: Path, tmp_path: Path
) -> None:
    text, audio = adapters["text"].dir, adapters["audio"].dir
    cases = [
        (f"adapters.text={audio}", "adapters.text: .* adapts audio"),
        (f"adapters.text={bench.base}", "adapters.text: .* is no adapter"),
        (f"adapters.text={tmp_path}/nowhere", "nowhere: no config.yaml"),
        (f"adapters.visual={text}", "adapters.visual: modalities is text, audio"),
        ("control=random", "'random' is not untrained, shuffled, oracle or direct"),
    ]
    cases += [(f"base={prepared_base}", "another target space .3 columns, here 300")]
    cases += [("data.normaliser=robust", "another source space or normaliser")]
    cases += [
        (f"extractor.text.path={bench.corpus}/vectors.txt", "source space .5 columns, here 3")
    ]
    cases += [(f"control={c}", "leave out adapters.text") for c in ("shuffled", "oracle")]
    for override, message in cases:
        given = (
            []
            if "adapters" in override or override == "control=random"
            else [f"adapters.text={text}"]
        )
        with pytest.raises((ConfigError, DataError, DataNotFoundError), match=message):
            bench.transfer(tmp_path / "t", *given, override)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_into_a_space_that_is_scaled_otherwise(bench: Bench, tmp_path: Path) -> None:
    adapter = bench.adapt(tmp_path / "a")
    path = adapter.dir / "target_normaliser.npz"
    with np.load(path) as stored:
        values = dict(stored)
    np.savez(path, **values | {"text.centre": values["text.centre"] + 1})
    with pytest.raises(DataError, match="another target space or normaliser"):
        bench.transfer(tmp_path / "t", f"adapters.text={adapter.dir}", "modalities=text")
    assert not (tmp_path / "t").exists()


def test_an_adapter_whose_checkpoint_is_damaged(bench: Bench, tmp_path: Path) -> None:
    adapter = bench.adapt(tmp_path / "a")
    path = adapter.dir / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"last\.ckpt: cannot be loaded"):
        bench.transfer(tmp_path / "t", f"adapters.text={adapter.dir}", "modalities=text")
    assert not (tmp_path / "t").exists()


# The commands


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
