"""How long a run trains, without what comes before and after."""

import time
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer


class Stopwatch(Callback):
    """Keep the seconds from the first step to the last, also in ``stopwatch.txt``."""

    seconds: float

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self.began
        Path(trainer.default_root_dir, "stopwatch.txt").write_text(str(self.seconds))
