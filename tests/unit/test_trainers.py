"""Every trainer config: it composes, builds, and names the same run as the others."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning import Trainer

from msa_lightning import config
from msa_lightning.config import CONF, instantiate

Configure = Callable[..., DictConfig]
NAMES = sorted(path.stem for path in Path(CONF, "trainer").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_run_is_the_same_on_every_kind_of_machine(configure: Configure, name: str) -> None:
    chosen = config.fingerprint(configure("train", f"trainer={name}"))
    assert chosen == config.fingerprint(configure("train"))


@pytest.mark.parametrize("name", NAMES)
def test_builds(configure: Configure, name: str, tmp_path: Path) -> None:
    on_cpu = ("trainer.accelerator=cpu", "trainer.devices=1", f"paths.run={tmp_path}")
    more = ("trainer.precision=bf16-mixed", "compile=true", "data.pin_memory=true")
    cfg = config.resolve(configure("train", f"trainer={name}", *on_cpu, *more))
    trainer = instantiate(cfg.trainer, callbacks=[], logger=False)
    assert isinstance(trainer, Trainer)
    assert trainer.precision == "bf16-mixed"
    assert instantiate(cfg.data).loading["pin_memory"]


def test_gpus_are_asked_for(configure: Configure) -> None:
    chosen = {name: configure("train", f"trainer={name}").trainer for name in NAMES}
    assert {name: (t.accelerator, t.devices) for name, t in chosen.items()} == {
        "cpu": ("cpu", 1),
        "gpu": ("gpu", 1),
        "ddp": ("gpu", -1),
        "ddp_cpu": ("cpu", 2),
        "slurm": ("gpu", 1),
    }


def test_slurm_gets_a_task_for_every_device() -> None:
    asked = ["trainer=slurm", "trainer.devices=4", "trainer.num_nodes=3"]
    with initialize_config_dir(CONF, version_base="1.3"):
        launcher = compose("train", asked, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (3, 4, 4)
    assert launcher.additional_parameters == {"requeue": True}
