"""A callback that every device of a run loads from its config."""

import json
import os
import time
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer


class Spy(Callback):
    """Write what this process trains with to ``<folder>/<run>-<rank>-<pid>.json``."""

    def __init__(self, folder: str, run: str) -> None:
        self.folder, self.run = Path(folder), run

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        facts = {
            "run": self.run,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
            "lr": trainer.optimizers[0].defaults["lr"],
            "weights": sum(p.double().sum().item() for p in pl_module.parameters()),
        }
        path = self.folder / f"{self.run}-{trainer.global_rank}-{os.getpid()}.json"
        path.write_text(json.dumps(facts))


class Bomb(Callback):
    """Raise on one device, or end it without a word, while training with one learning rate."""

    def __init__(self, lr: float, rank: int, exit_code: int | None = None) -> None:
        self.lr, self.rank, self.exit_code = lr, rank, exit_code

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_rank == self.rank and trainer.optimizers[0].defaults["lr"] == self.lr:
            if self.exit_code is not None:
                os._exit(self.exit_code)
            raise RuntimeError("boom")


class Diary(Callback):
    """Note on each device which epochs begin, and in which process.

    The environment variable ``PAUSE_S`` makes it slow enough to be watched.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        restarts = os.environ.get("SLURM_RESTART_COUNT", 0)
        facts = (trainer.current_epoch, trainer.global_rank, os.getpid(), restarts)
        with self.path.open("a") as file:
            file.write(" ".join(map(str, facts)) + "\n")
        time.sleep(float(os.environ.get("PAUSE_S", 0)))


class Marker(Callback):
    """Note the epoch and the batch that were just trained, and go slowly enough to be watched."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.path.write_text(f"{trainer.current_epoch} {trainer.fit_loop.batch_idx} end")
        time.sleep(0.005)
