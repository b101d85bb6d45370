"""Adapters and transfers refuse what cannot work, and leave nothing behind."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from msa_lightning.adapt import adapt
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.run import LoadedRun, run_context
from tests.integration.bench import TARGETS, Bench, weights
from tests.integration.configure import configure


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
        (["transductive=true", "share=0.5"], "transductive: takes the clips of all splits"),
        (["transductive=true", "control=shuffled"], "transductive: takes the clips of all splits"),
        (["transductive=true", "pairing=label_matched"], "clips are unlabelled"),
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


@pytest.mark.parametrize("control", ["untrained", "direct", "oracle"])
def test_a_transfer_without_training_is_not_transductive(
    bench: Bench, tmp_path: Path, control: str
) -> None:
    with pytest.raises(ConfigError, match="transductive: no adapter is trained here"):
        bench.transfer(tmp_path / "t", "transductive=true", f"control={control}")
    assert not (tmp_path / "t").exists()


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_adapters_that_do_not_fit(
    bench: Bench, adapters: dict[str, LoadedRun], prepared_base: Path, tmp_path: Path
) -> None:
    text, audio = adapters["text"].dir, adapters["audio"].dir
    cases = [
        (f"adapters.text={audio}", "adapters.text: .* adapts audio"),
        (f"adapters.text={bench.base}", "adapters.text: .* is no adapter"),
        (f"adapters.text={tmp_path}/nowhere", "nowhere: no run there"),
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
