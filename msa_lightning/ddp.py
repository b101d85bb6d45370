"""Several devices on one machine, also under a Hydra sweep."""

import os
import subprocess
import sys
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

_SET_BY_LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


class RunDDPStrategy(DDPStrategy):
    """DDP whose further processes run exactly this run, from its folder's ``config.yaml``.

    Lightning starts them with the parent's command line; under ``--multirun`` each would begin a
    sweep of its own. It also leaves its environment variables behind, so that a sweep's second job
    would start no process at all.

    Args:
        run: The run folder.
        module: Which command the processes run.
        kwargs: As for Lightning's ``DDPStrategy``.
    """

    def __init__(self, *, run: str, module: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.command = [
            *(sys.executable, "-m", module),
            *("--config-path", os.path.abspath(run), "--config-name", "config"),  # noqa: PTH100
        ]

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        if self.cluster_environment.creates_processes_externally:  # torchrun, SLURM
            super()._configure_launcher()
            return
        self._launcher = _RunLauncher(
            self.cluster_environment, self.num_processes, self.num_nodes, self.command
        )

    def on_exception(self, exception: BaseException) -> None:
        """End this job's other processes, before Lightning's observer ends the whole sweep."""
        super().on_exception(exception)
        if isinstance(self._launcher, _RunLauncher):
            for process in self._launcher.procs:
                process.kill()
                process.wait()
            self._launcher.procs.clear()

    def teardown(self) -> None:
        """Leave no process group and no environment variable to the next job of a sweep."""
        super().teardown()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if isinstance(self._launcher, _RunLauncher):
            for name in _SET_BY_LAUNCHER:
                os.environ.pop(name, None)


class _RunLauncher(_SubprocessScriptLauncher):
    def __init__(self, environment: Any, processes: int, nodes: int, command: list[str]) -> None:
        super().__init__(environment, processes, nodes)
        self.command = command

    def _call_children_scripts(self) -> None:
        self._check_can_spawn_children()
        environment = self.cluster_environment
        os.environ |= {
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": str(environment.node_rank()),
            "LOCAL_RANK": str(environment.local_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        self.procs = [
            subprocess.Popen(self.command, env=os.environ | {"LOCAL_RANK": str(rank)})
            for rank in range(1, self.num_processes)
        ]
