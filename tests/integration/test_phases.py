"""All three phases from one command: what is there is taken, what is not is trained."""

from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir

from msa_lightning.adapters.phases import train_base
from msa_lightning.adapters.spaces import choose_data
from msa_lightning.config import CONF, compose, fingerprint
from msa_lightning.errors import ConfigError, DataError
from msa_lightning.evaluate import evaluate
from msa_lightning.run import LoadedRun, load_run, run_context
from msa_lightning.transfer import transfer
from tests.integration.bench import TARGETS, Bench, assert_equal, weights
from tests.integration.configure import configure


def base_of(prepared: Path, runs: Path, *overrides: str) -> Path:
    fixed = [f"paths.prepared={prepared}", f"paths.runs={runs}", "+train.data=demo"]
    fixed += ["+train.trainer.max_epochs=1", "+train.model.hidden=8"]
    cfg = configure("transfer", *fixed, *overrides)
    with initialize_config_dir(CONF, version_base="1.3"):
        return train_base(cfg)


def test_the_base_is_what_msa_train_makes_and_is_made_once(prepared: Path, tmp_path: Path) -> None:
    folder = base_of(prepared, tmp_path, "modalities=text", "seed=3")
    run = load_run(folder)
    assert (run.cfg.modalities, run.cfg.seed, run.cfg.model.hidden) == (["text"], 3, 8)
    assert folder.parent == tmp_path / "demo"
    same = ["data=demo", "model.hidden=8", "trainer.max_epochs=1", "modalities=text", "seed=3"]
    same += [f"paths.prepared={prepared}"]
    assert folder.name.endswith(f"-seed3-{fingerprint(configure('train', *same))}")

    changed = (folder / "metrics.json").stat().st_mtime_ns
    assert base_of(prepared, tmp_path, "modalities=text", "seed=3") == folder
    assert (folder / "metrics.json").stat().st_mtime_ns == changed
    assert base_of(prepared, tmp_path, "modalities=text", "seed=4") != folder


def test_settings_of_the_base_may_say_its_modalities(prepared: Path, tmp_path: Path) -> None:
    overrides = ["modalities=text", "+train.modalities=text_audio"]
    folder = base_of(prepared, tmp_path, *overrides)
    assert load_run(folder).cfg.modalities == ["text", "audio"]


def test_settings_of_the_base_that_do_not_exist(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"msa-train .*optimizer\.lrr=1: .*Could not override"):
        base_of(prepared, tmp_path, "+train.optimizer.lrr=1")
    assert not any(tmp_path.iterdir())


def test_values_keep_their_kind_on_the_way_to_another_command(tmp_path: Path) -> None:
    settings = {
        "data": "demo",
        "init_from": "a folder, with [brackets] = and 'quotes'",
        "trainer": {"gradient_clip_val": None, "max_epochs": 7},
        "optimizer.lr": 1e-3,
        "compile": True,
    }
    paths = configure("transfer", f"paths.runs={tmp_path}").paths
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("train", settings, paths)
    assert cfg.init_from == settings["init_from"]
    assert (cfg.trainer.gradient_clip_val, cfg.trainer.max_epochs) == (None, 7)
    assert (cfg.optimizer.lr, cfg.compile) == (1e-3, True)


@pytest.mark.slow
def test_adapter_runs_with_the_same_settings_are_taken(bench: Bench, tmp_path: Path) -> None:
    runs, task = f"paths.runs={tmp_path}", "alignment=task"
    text = bench.adapt(tmp_path / folder_name(bench, "text", runs, task), runs, task)
    beside = f"beside.text={text.dir}"
    name = folder_name(bench, "audio", runs, task, beside)
    audio = bench.adapt(tmp_path / name, runs, task, beside, modality="audio")
    run = bench.transfer(tmp_path / "t", runs, task)
    assert not (run.dir / "adapters").exists()
    found = run.module.net.adapters.state_dict()
    assert_equal(weights(text.dir) | weights(audio.dir), found)
    other = bench.transfer(tmp_path / "u", runs, "alignment=coral")
    assert (other.dir / "adapters" / "text").is_dir()


def folder_name(bench: Bench, modality: str, *overrides: str) -> str:
    fixed = [f"adapter={modality}", "adapter.hidden=[8]", f"base={bench.base}", *TARGETS]
    cfg = choose_data(configure("adapt", *bench.options(Path("anywhere")), *fixed, *overrides))
    return f"mosi/{modality}-seed0-{fingerprint(cfg)}"


# The ceiling of no transfer


@pytest.fixture(scope="module")
def direct(bench: Bench) -> LoadedRun:
    return bench.transfer(bench.folder / "direct_transfer", "control=direct")


@pytest.mark.slow
def test_direct_trains_the_network_of_the_base_on_the_source(
    bench: Bench, direct: LoadedRun
) -> None:
    own, base = load_run(direct.dir / "direct"), load_run(bench.base)
    assert own.cfg.model == base.cfg.model
    assert own.cfg.optimizer == base.cfg.optimizer
    assert own.cfg.data.batch_size == base.cfg.data.batch_size
    assert own.datamodule.dims == direct.datamodule.dims != base.datamodule.dims
    for name, x in own.module.net.state_dict().items():
        assert torch.equal(direct.module.net.base.state_dict()[name], x)


@pytest.mark.slow
def test_direct_is_a_run_like_any_other(direct: LoadedRun) -> None:
    stored = direct.metrics["test"]
    assert evaluate(load_run(direct.dir), device="cpu", again=True) == pytest.approx(stored)


@pytest.mark.slow
def test_direct_learns_from_training_clips_alone(
    bench: Bench, tmp_path: Path, taught: set[str]
) -> None:
    bench.transfer(tmp_path / "t", "control=direct")
    assert taught
    assert not taught & bench.valid_and_test


@pytest.mark.slow
def test_three_phases_with_one_base_for_every_method(bench: Bench, prepared: Path) -> None:
    """The prepared file is the base's, the raw media are the source."""
    folder = bench.folder / "three"
    for method in ("random", "task"):
        cfg = configure(
            "transfer",
            *[o for o in bench.options(folder / method) if not o.startswith("paths.prepared")],
            *(f"method={method}", f"paths.prepared={prepared}", "modalities=text", *TARGETS),
            *(f"paths.runs={folder}", "+train.data=demo", "+train.trainer.max_epochs=1"),
        )
        with initialize_config_dir(CONF, version_base="1.3"):
            cfg.base = str(train_base(cfg))
        with run_context(cfg) as run:
            transfer(run)
    assert len(list((folder / "demo").iterdir())) == 2  # the base and its lock
    assert load_run(folder / "task").cfg.base == load_run(folder / "random").cfg.base


def test_direct_takes_no_share_of_the_clips(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="control=direct trains on all"):
        bench.transfer(tmp_path / "t", "control=direct", "share=0.5")
    assert not (tmp_path / "t").exists()


def test_a_base_that_has_seen_test_videos_of_the_source_is_refused(
    bench: Bench, tmp_path: Path
) -> None:
    other = ("data.split=random_70_15_15", "data.split_seed=1", "modalities=text")
    with pytest.raises(DataError, match=r"trained or selected on \d videos of the source's test"):
        bench.transfer(tmp_path / "t", *other)
    assert not (tmp_path / "t").exists()
