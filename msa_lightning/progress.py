"""A progress bar that leaves most training steps alone."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar


class SparseProgressBar(RichProgressBar):
    """Lightning's rich progress bar, looked after at every ``refresh_rate`` steps only.

    Lightning's gathers the metrics to show at every step, also when it does not draw them; for a
    model of half a million parameters that costs one twentieth of an epoch.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, now and then and at the last step."""
        if (batch_idx + 1) % self.refresh_rate == 0 or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
