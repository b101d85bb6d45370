"""Several devices of one machine: one process per device, started anew for every run.

Lightning would start the further processes with this one's command line, and under ``--multirun``
each would begin a sweep of its own. It would also train in this process, where a process group,
environment variables and, when a device fails, a hanging or killed sweep are left behind. So this
process only watches; what it starts knows one run's configuration. Under torchrun and SLURM, which
start the processes themselves, nothing here is used.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import ParallelStrategy

from msa_lightning import config
from msa_lightning.errors import ConfigError, JobError

if TYPE_CHECKING:
    from msa_lightning.run import Run

log = logging.getLogger("msa_lightning")
_GRACE_S = 10.0  # for the other devices to end, and close their logs, after one has failed


def needs_processes(trainer: Trainer) -> bool:
    """Whether a trainer has several devices and nobody has started their processes.

    Raises:
        ConfigError: If there are several machines, and nobody has.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy):
        return False
    environment = strategy.cluster_environment
    if environment is None or environment.creates_processes_externally:
        return False
    if trainer.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes: {trainer.num_nodes} machines need somebody who starts the "
            "processes on each; use SLURM (-m trainer=slurm) or torchrun"
        )
    return True


def share_equally(batch_size: int, trainer: Trainer) -> None:
    """Say how many of the clips of a step each device gets.

    Args:
        batch_size: Clips per step, over all devices together.
        trainer: Says how many devices there are, on all machines.

    Raises:
        ConfigError: If they cannot all get the same number.
    """
    size = trainer.world_size
    if batch_size % size:
        raise ConfigError(
            f"data.batch_size: {batch_size} clips per step cannot be shared equally over {size} "
            f"devices; take {max(1, batch_size // size) * size}"
        )
    if size > 1 and trainer.is_global_zero and not needs_processes(trainer):
        log.info(
            "%s clips per step: %s on each of %s devices", batch_size, batch_size // size, size
        )


def train_in_processes(run: "Run", trainer: Trainer) -> None:
    """Train a run in one process per device, and wait for them.

    Args:
        run: Its folder and configuration; the first process writes it.
        trainer: Says how many devices there are.

    Raises:
        JobError: If a process failed, with the reason of the first that did. The others are ended.
    """
    cfg = run.stored.copy()
    cfg.again = run.cfg.again
    size = trainer.num_devices
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // size)),
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        config.save(cfg, folder / "config.yaml", "msa-train")
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "msa_lightning.ddp", folder],
                env=environment | {"NODE_RANK": "0", "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,  # tells them when this process has died
            )
            for rank in range(size)
        ]
        try:
            _wait(processes)
            codes = [process.poll() for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        if any(code != 0 for code in codes):
            raise JobError(f"{run.dir}: {_reason(folder, codes)}")


def part() -> None:
    """End what connects this device to the others: what follows is done by one of them alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _wait(processes: list["subprocess.Popen[bytes]"]) -> None:
    """Until all have ended, or one has failed and the others had time to notice.

    A device whose peer is gone may wait for it for ever.
    """
    failed_at = None
    while any(process.poll() is None for process in processes):
        if failed_at is None and any(process.returncode for process in processes):
            failed_at = time.monotonic()
        if failed_at and time.monotonic() - failed_at > _GRACE_S:
            return
        time.sleep(0.05)


def _reason(folder: Path, codes: list[int | None]) -> str:
    """Why the first process failed: one that died without a word, or what was said first.

    Args:
        folder: Where they leave what they have to say.
        codes: Exit code of each; None of those that had not ended by themselves.
    """
    failures = []
    for rank, code in enumerate(codes):
        if code:
            said = folder / f"rank{rank}"
            silent = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
            when, reason = (
                (said.stat().st_mtime_ns, said.read_text()) if said.exists() else (0, silent)
            )
            failures.append((when, f"device {rank} of {len(codes)}: {reason}"))
    return min(failures)[1]


def _main(folder: Path) -> None:
    """Be one device of the run whose configuration is in a folder; leave a reason on failure."""
    from msa_lightning.run import run_context
    from msa_lightning.train import train

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        config.log_to_stdout()
        with run_context(config.load(folder / "config.yaml")) as run:
            train(run)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        (folder / f"rank{os.environ['LOCAL_RANK']}").write_text(reason)
        raise


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the other end is closed
    os._exit(1)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
