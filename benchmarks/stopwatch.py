"""How long a run trains, without what comes before and after."""

import time
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer


class Stopwatch(Callback):
    """Time the training of a run.

    Attributes:
        seconds: From the first step to the last, with logging and checkpoints.
        inside: Of the epochs alone, their steps and their validation; also in ``stopwatch.txt``.
    """

    seconds: float
    inside: float

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began, self.inside = time.perf_counter(), 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # before the module logs and the checkpoint is written
        self.inside += time.perf_counter() - self.epoch_began

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self.began
        Path(trainer.default_root_dir, "stopwatch.txt").write_text(str(self.inside))
