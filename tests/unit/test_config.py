"""Configurations: checked before anything runs, named, saved so that they run again."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from msa_lightning import config
from msa_lightning.errors import ConfigError, DataError
from tests.unit.conftest import Run

GROUPS = ("data", "model", "objective", "loss", "optimizer", "scheduler", "trainer", "callbacks")
GROUPS += ("logger", "experiment")
CHOICES = [
    f"{group}={path.relative_to(Path(config.CONF) / group).with_suffix('')}"
    for group in GROUPS
    for path in sorted((Path(config.CONF) / group).rglob("*.yaml"))
]
SUPPLIED = {"model": {"dims", "outputs"}}


Configure = Callable[..., DictConfig]


class Box:
    """Something to instantiate."""

    def __init__(self, *, size: int, lid: dict[str, Any] | None = None, seed: int = 0) -> None:
        if size < 0:
            raise ValueError(f"size is {size}")
        self.size, self.lid, self.seed = size, lid, seed


def refuse(error: str) -> None:
    raise {"data": DataError, "type": TypeError, "other": ZeroDivisionError}[error]("no")


BOX, REFUSE = f"{__name__}.Box", f"{__name__}.refuse"


# Faults


@pytest.mark.parametrize("choice", CHOICES)
def test_every_config_file_fits_the_code(configure: Configure, choice: str) -> None:
    config.validate(config.resolve(configure("train", choice, "paths.run=/r")), SUPPLIED)


def test_all_faults_are_listed_at_once() -> None:
    cfg = OmegaConf.create(
        {
            "model": {"_target_": BOX, "sise": 3},
            "callbacks": [{"_target_": BOX, "size": 1}, {"_target_": "no.such.Thing"}],
            "deep": {"er": {"_target_": BOX, "size": 1, "colour": "red", "shape": "cube"}},
            "partial": {"_target_": BOX, "_partial_": True, "saed": 1},
        }
    )
    with pytest.raises(ConfigError) as error:
        config.validate(cfg, {})
    lines = str(error.value).splitlines()
    expected = [
        f"model: {BOX} got an unexpected keyword argument 'sise'; did you mean 'size'?",
        f"model: {BOX} needs 'size'; add model.size=<value>",
        "callbacks[1]: cannot import no.such.Thing (",
        f"deep.er: {BOX} got an unexpected keyword argument 'colour'",
        f"deep.er: {BOX} got an unexpected keyword argument 'shape'",
        f"partial: {BOX} got an unexpected keyword argument 'saed'; did you mean 'seed'?",
    ]
    assert len(lines) == len(expected)
    assert all(line.startswith(x) for line, x in zip(lines, expected, strict=True)), lines


def test_values_that_do_not_fit_their_annotation(configure: Configure) -> None:
    wrong = {
        "data.batch_size=1.5": "data.batch_size: 1.5 is not int",
        "data.normaliser=zscore": "data.normaliser: 'zscore' is not Literal[",
        "data.num_workers=many": "data.num_workers: 'many' is not int",
        "model.dropout=null": "model.dropout: None is not float",
        "optimizer.lr=fast": "optimizer.lr: 'fast' is not ",
        "trainer.precision=33": "trainer.precision: 33 is not ",
    }
    with pytest.raises(ConfigError) as error:
        config.validate(config.resolve(configure("train", "paths.run=/r", *wrong)), SUPPLIED)
    lines = sorted(str(error.value).splitlines())
    assert len(lines) == len(wrong)
    assert all(line.startswith(x) for line, x in zip(lines, wrong.values(), strict=True)), lines


def test_values_that_fit_their_annotation(configure: Configure) -> None:
    right = ["model.dropout=0", "optimizer.lr=1", "trainer.precision=bf16-mixed"]
    right += ["trainer.devices=[0]", "data.seed=-1", "model.fusion_input=encoded", "paths.run=/r"]
    right += ["+trainer.limit_train_batches=3", "+trainer.max_time='00:01:00:00'"]
    right += ["+optimizer.betas=[0.9,0.99]", "+optimizer.eps=1e-6"]
    config.validate(config.resolve(configure("train", *right)), SUPPLIED)


def test_arguments_that_code_supplies_are_not_asked_for() -> None:
    cfg = OmegaConf.create({"model": {"_target_": BOX}, "other": {"_target_": BOX}})
    with pytest.raises(ConfigError) as error:
        config.validate(cfg, {"model": {"size"}})
    assert str(error.value) == f"other: {BOX} needs 'size'; add other.size=<value>"


def test_partial_may_leave_arguments_open_and_kwargs_take_any() -> None:
    cfg = OmegaConf.create(
        {
            "partial": {"_target_": BOX, "_partial_": True, "_convert_": "all"},
            "kwargs": {"_target_": "logging.basicConfig", "anything": 1},
        }
    )
    config.validate(cfg, {})


def test_all_missing_values_are_listed_at_once() -> None:
    cfg = OmegaConf.create({"run": "???", "a": {"b": "???", "c": 1}, "l": [{"d": "???"}]})
    with pytest.raises(ConfigError) as error:
        config.resolve(cfg)
    assert str(error.value).splitlines() == [
        "a.b: missing; give it as a.b=<value>",
        "l[0].d: missing; give it as l[0].d=<value>",
        "run: missing; give it as run=<value>",
    ]


def test_missing_value_that_others_refer_to_is_a_config_error() -> None:
    cfg = OmegaConf.create({"seed": "???", "data": {"seed": "${seed}"}})
    with pytest.raises(ConfigError, match="seed: missing; give it as seed=<value>"):
        config.resolve(cfg)


@pytest.mark.parametrize("reference", ["${data.targets.sentiment}", "${oc.env:MSA_NOT_SET}"])
def test_reference_to_nothing_is_a_config_error(reference: str) -> None:
    cfg = OmegaConf.create({"data": {"targets": {}}, "model": {"ranges": reference}})
    with pytest.raises(ConfigError, match=r"^model\.ranges: "):
        config.resolve(cfg)


# Instances


def test_resolved_config_has_no_reference_left(configure: Configure) -> None:
    cfg = config.resolve(configure("train", "seed=3", "paths.run=/r"))
    assert "${" not in OmegaConf.to_yaml(cfg)
    assert (cfg.data.seed, cfg.callbacks.best.dirpath) == (3, "/r/checkpoints")


def test_instances_get_plain_containers_and_supplied_arguments() -> None:
    node = OmegaConf.create({"_target_": BOX, "lid": {"a": [1, 2]}})
    box = config.instantiate(node, size=5)
    assert (box.size, box.lid, type(box.lid), type(box.lid["a"])) == (5, {"a": [1, 2]}, dict, list)


@pytest.mark.parametrize("supplied", [{}, {"size": -1}])
def test_constructor_that_refuses_is_a_config_error(supplied: dict[str, int]) -> None:
    node = OmegaConf.create({"_target_": BOX} | ({} if supplied else {"size": -1}))
    with pytest.raises(ConfigError) as error:
        config.instantiate(node, **supplied)
    assert str(error.value) == f"{BOX}: size is -1"


# Names and fingerprints


@pytest.mark.parametrize(("error", "kind"), [("data", DataError), ("type", ConfigError)])
@pytest.mark.parametrize("supplied", [False, True])
def test_errors_of_the_user_pass_through(error: str, kind: type, supplied: bool) -> None:
    arguments = {"error": error}
    node = OmegaConf.create({"_target_": REFUSE} | ({} if supplied else arguments))
    with pytest.raises(kind, match=r"no$"):
        config.instantiate(node, **(arguments if supplied else {}))


def named(run: Run, *overrides: str) -> str:
    names: list[str] = []
    run(lambda cfg: names.append(config.run_name(cfg)), *overrides, name="train")
    return names[0]


def test_run_is_named_after_its_overrides(run: Run) -> None:
    name = named(run, "data=demo", "model=tfn", "optimizer.lr=1e-3", "seed=3", "logger=csv")
    stem, fingerprint = name.rsplit("-", 1)
    assert stem == "demo/model-tfn_optimizer.lr-1e-3-seed3"
    assert len(fingerprint) == 8
    assert int(fingerprint, 16) >= 0


@pytest.mark.parametrize(
    "overrides",
    [
        ["init_from=/my runs/a=b,[c]"],
        ["modalities=text", "+trainer.limit_train_batches=3", "~data.targets.emotions"],
        ["++data.dims={text: 1, audio: 2, visual: 3}", "model.hidden=192"],
        [f"init_from={'long' * 100}"],
    ],
)
def test_name_of_a_run_is_a_plain_folder(run: Run, overrides: list[str]) -> None:
    name = named(run, *overrides)
    assert name.count("/") == 1
    assert not set(name) & set("= '\"[](){}:*~$\\")
    assert len(name) < 150


def test_without_overrides_a_run_has_a_name_too(run: Run, configure: Configure) -> None:
    assert named(run).startswith("mosei/default-seed0-")
    assert config.run_name(configure("train")).startswith("run/default-seed0-")


def changed(configure: Configure, override: str) -> DictConfig:
    """Like ``configure("train", override)``, faster where no config group is chosen."""
    key, value = override.split("=")
    if key in GROUPS or key == "modalities":
        return configure("train", override)
    cfg = configure("train")
    OmegaConf.update(cfg, key, OmegaConf.create(f"value: {value}").value)
    return cfg


@pytest.mark.parametrize(
    "override",
    [
        *("seed=1", "model=concat", "model.hidden=64", "modalities=text", "optimizer.lr=0.1"),
        *("data=demo", "data.split=random_70_15_15", "loss.weights.absolute=0.5", "scheduler=none"),
        *("selection=none", "trainer.max_epochs=3", "init_from=x", "objective.monitor=mae"),
    ],
)
def test_fingerprint_depends_on_what_changes_a_result(configure: Configure, override: str) -> None:
    found = config.fingerprint(changed(configure, override))
    assert found != config.fingerprint(configure("train"))


@pytest.mark.parametrize(
    "override",
    [
        *("paths.data=/x", "paths.prepared=/x", "paths.run=/x", "paths.runs=/x", "logger=wandb"),
        *("trainer=gpu", "trainer=ddp", "trainer=ddp_cpu", "trainer.devices=4", "again=true"),
        "trainer.num_nodes=2",
    ],
)
def test_fingerprint_leaves_out_places_loggers_and_devices(
    configure: Configure, override: str
) -> None:
    found = config.fingerprint(changed(configure, override))
    assert found == config.fingerprint(configure("train"))


# A saved configuration


def test_fingerprint_of_a_stored_config_is_the_same(configure: Configure) -> None:
    """A run is continued with its stored configuration, perhaps after its data have moved."""
    expected = config.fingerprint(configure("train"))
    for folder in ("a", "b"):
        places = [f"paths.{key}=/{folder}/{key}" for key in ("data", "prepared", "runs", "run")]
        stored = config.resolve_but_paths(configure("train", *places))
        assert config.fingerprint(stored) == expected


def save(configure: Configure, folder: Path) -> DictConfig:
    """Store a run's configuration as ``msa_lightning.run`` does; return what the run sees."""
    folder.mkdir()
    cfg = configure("train", "data=demo", "model=tfn", "seed=3")
    cfg.paths.update({"run": str(folder), "runs": str(folder.parent)})
    stored = config.resolve_but_paths(cfg)
    config.save(stored, folder / "config.yaml", "msa-train")
    return config.resolve(stored)


def test_saved_config_comes_back(configure: Configure, tmp_path: Path) -> None:
    cfg = save(configure, tmp_path / "run")
    loaded = config.load(tmp_path / "run" / "config.yaml")
    assert config.resolve(loaded) == cfg
    assert config.fingerprint(loaded) == config.fingerprint(config.resolve_but_paths(loaded))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_only_places_stay_references(configure: Configure) -> None:
    stored = config.resolve_but_paths(configure("train", "seed=3", "paths.run='/my, [run]'"))
    references = re.findall(r"\$\{.*?\}", OmegaConf.to_yaml(stored))
    assert set(references) == {"${paths.run}", "${paths.prepared}"}
    assert stored.data.seed == 3
    assert stored.callbacks.best.dirpath == "/my, [run]/checkpoints"


def again(run: Run, folder: Path, *overrides: str) -> DictConfig:
    """What a command gets from a run's own configuration, called as that file says."""
    seen: list[DictConfig] = []
    arguments = ["--config-path", str(folder), "--config-name", "config", *overrides]
    assert run(seen.append, *arguments, name="train") == 0
    return config.resolve(seen[0])


@pytest.mark.parametrize("name", ["run", "my run, [1] a=b"])
def test_saved_config_runs_again(configure: Configure, run: Run, tmp_path: Path, name: str) -> None:
    cfg = save(configure, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    assert again(run, tmp_path / name) == cfg
    assert sorted(tmp_path.rglob("*")) == before


def test_saved_config_in_another_folder_leaves_the_first_alone(
    configure: Configure, run: Run, tmp_path: Path
) -> None:
    save(configure, tmp_path / "first")
    cfg = again(run, tmp_path / "first", f"paths.run={tmp_path / 'second'}")
    assert cfg.paths.run == str(tmp_path / "second")
    assert str(tmp_path / "first") not in OmegaConf.to_yaml(cfg)


def test_saved_config_can_be_changed(configure: Configure, run: Run, tmp_path: Path) -> None:
    save(configure, tmp_path / "run")
    assert again(run, tmp_path / "run", "optimizer.lr=0.5").optimizer.lr == 0.5
