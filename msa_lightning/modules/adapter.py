"""The LightningModule that trains one feature adapter."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from msa_lightning.adapters.alignment import Distance
from msa_lightning.adapters.composed import Composed
from msa_lightning.batch import Batch
from msa_lightning.modules.gradients import gradient_norms
from msa_lightning.objective import Objective

Pairing = Callable[[Tensor, Tensor], Tensor]


class AdapterModule(LightningModule):
    """Train an adapter from a source modality's space into that of a frozen base model.

    Random choices are a function of seed and epoch, so that a resumed run ends like an
    uninterrupted one. A checkpoint holds the adapter alone; the base model is in its own run.

    Every clip has the modality; clips without it teach an adapter nothing. Other modalities of a
    batch are in the base model's space already. Only the task loss sees them, and not always:
    beside others that fit the training clips well an adapter would have nothing to learn.

    Args:
        adapter: The network that is trained.
        modality: Which modality it adapts.
        weights: Weight of each term; ``task`` is the loss of the base model.
        distances: The other terms that have a weight.
        pairing: From source clips and their adapted vectors to target vectors; None if no term
            needs pairs.
        targets: Target-space vectors (N, D).
        draws: How many of them a distance without pairs compares a batch with.
        alone: Share of the batches in which the task loss sees no other modality.
        base: The frozen base model, for the task loss.
        base_dims: Feature size D of each of its modalities.
        objective: Of the base model.
        ids: Clips that it is trained on, in the order that the pairing knows.
        optimizer: Parameters to optimizer.
        generator: What the pairing and the distances draw from.
        seed: Of it.
    """

    def __init__(
        self,
        *,
        adapter: nn.Module,
        modality: str,
        weights: Mapping[str, float],
        distances: Mapping[str, Distance],
        pairing: Pairing | None,
        targets: Tensor,
        draws: int,
        alone: float,
        base: nn.Module,
        base_dims: Mapping[str, int],
        objective: Objective,
        ids: Sequence[str],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        generator: torch.Generator,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = Composed(base=base, adapters={modality: adapter}, base_dims=base_dims)
        self.modality, self.objective, self.optimizer = modality, objective, optimizer
        self.weights, self.distances, self.pairing = weights, distances, pairing
        self.targets, self.draws, self.alone = targets, draws, alone
        self.rows = {clip: row for row, clip in enumerate(ids)}
        self.generator, self.seed = generator, seed
        self.train_loss = float("nan")
        self._losses: list[list[Tensor]] = []  # of each step, by term
        self._gradient_norms: dict[str, Tensor] = {}

    def on_train_epoch_start(self) -> None:
        """Seed the random choices of this epoch."""
        # apart from the order of clips, which has the seed that is 50 000 less: with one seed for
        # both, a clip's place and its random target would come from the same random number
        self.generator.manual_seed(self.seed * 100_003 + self.current_epoch + 50_000)

    def training_step(self, batches: Sequence[Batch], batch_idx: int) -> None:
        """One step of the optimizer for each of several batches.

        A step takes a millisecond or two, and Lightning's loop half of one: it is gone through once
        for several steps.
        """
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for batch in batches:
            losses = self._weighted(batch)
            if not self._losses:  # the first of the epoch
                self._gradient_norms = gradient_norms(losses, self.net.adapters.parameters())
            optimizer.zero_grad()
            functools.reduce(torch.add, losses.values()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self._losses.append([loss.detach() for loss in losses.values()])

    def _weighted(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of one batch."""
        features = self.net.adapt(batch)
        adapted = features[self.modality][:, 0]
        losses = {}
        for name, distance in self.distances.items():
            if distance.paired:
                assert self.pairing
                rows = torch.tensor([self.rows[clip] for clip in batch.ids])
                targets = self.pairing(rows, adapted.detach())
            else:
                picks = torch.randint(len(self.targets), (self.draws,), generator=self.generator)
                targets = self.targets[picks].to(adapted)
            losses[name] = _times(self.weights[name], distance(adapted, targets))
        if self.weights.get("task"):
            output = self.net.predict(batch, self._others(batch) | features)
            task = torch.stack(list(self.objective.losses(output, batch.targets).values())).sum()
            losses["task"] = _times(self.weights["task"], task)
        return losses

    def _others(self, batch: Batch) -> dict[str, Tensor]:
        """Modalities that the base model sees besides: none in some of the batches."""
        others = {m: x for m, x in batch.features.items() if m != self.modality}
        if others and torch.rand((), generator=self.generator) < self.alone:
            return {}
        return others

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss, its terms if there are several, and gradient norms."""
        means = torch.stack([torch.stack(losses) for losses in self._losses]).mean(0)
        self.train_loss = means.sum().item()
        self.log("train/loss", self.train_loss, prog_bar=True)
        if len(means) > 1:
            for name, mean in zip(self._gradient_norms, means, strict=True):
                self.log(f"train/loss_{name}", mean)
        for name, norm in self._gradient_norms.items():
            self.log(f"gradient_norm/{name}", norm)
        self._losses = []

    def configure_optimizers(self) -> Optimizer:
        """The optimizer of the adapter's parameters alone, fused where that is possible."""
        parameters = list(self.net.adapters.parameters())
        optimizer = self.optimizer(parameters)
        settings = optimizer.defaults
        if settings.get("fused", 0) is None and not settings.get("foreach"):
            optimizer = self.optimizer(parameters, fused=True)  # type: ignore[call-arg]
        return optimizer

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Of the adapter, as ``<modality>.<name>``."""
        return self.net.adapters.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Take over what :meth:`state_dict` gave."""
        return self.net.adapters.load_state_dict(*args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the loss, for a run that is stopped after its last epoch."""
        checkpoint["train_loss"] = self.train_loss

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it over."""
        self.train_loss = checkpoint["train_loss"]


def _times(weight: float, loss: Tensor) -> Tensor:
    """Their product; times 1 would be two more operations of a short step."""
    return loss if weight == 1 else weight * loss
