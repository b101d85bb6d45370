"""What Lightning does at every training step, done less often.

A small model trains in a few milliseconds a step, of which these would be a tenth.
"""

from contextlib import nullcontext
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.profilers import PassThroughProfiler


class SparseProgressBar(RichProgressBar):
    """The rich progress bar, looked after at every ``refresh_rate`` steps only.

    Lightning's gathers the metrics to show at every step, also when it does not draw them.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, now and then and at the last step."""
        if (batch_idx + 1) % self.refresh_rate == 0 or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class NoProfiler(PassThroughProfiler):
    """No profiling, without a generator for each of the hundred hooks of a step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        """The same empty context, whatever the action."""
        return self._nothing
