"""A callback that notes how much memory a sweep's process holds."""

import os
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer


class Memory(Callback):
    """Append this process's resident memory in MiB, when training begins."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        with self.path.open("a") as file:
            file.write(f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20}\n")
