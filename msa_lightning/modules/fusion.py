"""The LightningModule that trains the base model and every fusion network."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from msa_lightning.batch import Batch
from msa_lightning.modules.gradients import gradient_norms
from msa_lightning.objective import Objective, Scores

_FULL_PRECISION = ("32-true", "64-true", "bf16-true", "16-true")


class FusionModule(LightningModule):
    """Train any fusion network on one objective.

    Losses and metrics are gathered over an epoch and logged once: a log call per step costs a
    fifth of the training time of a small model.

    Args:
        net: From Batch to Output.
        objective: What to minimise and to measure.
        optimizer: Parameters to optimizer. Its fused version is used where it has one and the
            precision allows it.
        scheduler: Optimizer to scheduler, stepped once per epoch; a plateau scheduler sees the
            monitored validation metric.
    """

    def __init__(
        self,
        *,
        net: nn.Module,
        objective: Objective,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.objective = net, objective
        self.optimizer, self.scheduler = optimizer, scheduler
        self.train_scores = Scores(objective, objective.history)
        self.valid_scores = Scores(objective, objective.history)
        self._gradient_norms: dict[str, Tensor] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the weighted losses of one batch."""
        output = self.net(batch.as_type(self.precision_type))
        losses = self.objective.losses(output, batch.targets)
        self.train_scores.update(output, batch.targets, losses)
        if batch_idx == 0:
            self._gradient_norms = gradient_norms(losses, self.net.parameters())
        return torch.stack(list(losses.values())).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Gather one batch."""
        output = self.net(batch.as_type(self.precision_type))
        losses = self.objective.losses(output, batch.targets)
        self.valid_scores.update(output, batch.targets, losses)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's validation losses and metrics."""
        self._log("valid", self.valid_scores)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training losses, metrics and gradient norms; step the scheduler.

        Lightning would step the scheduler after the checkpoint of this epoch is written, and a
        resumed run would lose that step; here it comes before.
        """
        self._log("train", self.train_scores)
        for name, norm in self._gradient_norms.items():
            self.log(f"gradient_norm/{name}", norm, sync_dist=True)
        scheduler = self.lr_schedulers()
        self.log("lr", self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"])  # type: ignore[union-attr]
        if isinstance(scheduler, ReduceLROnPlateau):
            every = self.trainer.check_val_every_n_epoch or 1
            monitored = self.trainer.callback_metrics.get(f"valid/{self.objective.monitor}")
            if monitored is not None and (self.current_epoch + 1) % every == 0:  # validated now
                scheduler.step(monitored)
        elif scheduler is not None:
            scheduler.step()  # type: ignore[union-attr]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Nothing: the scheduler is stepped in :meth:`on_train_epoch_end`."""

    def configure_optimizers(self) -> Any:
        """The optimizer, fused where that is possible, and the scheduler."""
        assert self.optimizer is not None
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = self.optimizer(parameters)
        settings = optimizer.defaults
        free = settings.get("fused", 0) is None and not settings.get("foreach")
        if free and self.trainer.precision in _FULL_PRECISION:
            # Lightning refuses to clip the gradients of a fused optimizer in mixed precision.
            optimizer = self.optimizer(parameters, fused=True)  # type: ignore[call-arg]
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        monitor = f"valid/{self.objective.monitor}"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": monitor},
        }

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes the hook it is in some 40 times a step; Module's check is slow."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def precision_type(self) -> torch.dtype:
        """What the parameters are stored in."""
        return next((p.dtype for p in self.net.parameters()), torch.float32)

    def _log(self, split: str, scores: Scores) -> None:
        shown = ("loss", self.objective.monitor)
        for name, value in scores.compute().items():
            self.log(f"{split}/{name}", value, prog_bar=name in shown)
        scores.reset()
