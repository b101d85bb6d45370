"""What the problem is: targets, loss, metrics, decoding, monitor and direction.

Regression, emotion classification, valence-arousal and several tasks at once are values of
:class:`Objective`, written in ``conf/objective`` and ``conf/loss``; not subclasses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from msa_lightning.batch import Output
from msa_lightning.errors import ConfigError
from msa_lightning.metrics import SplitMetrics

PairFunction = Callable[[Tensor, Tensor], Tensor]


def presence(values: Tensor) -> Tensor:
    """1 for values above 0 and 0 for others; NaN stays.

    The truth of an emotion that is rated by intensity, and the decoding of its logit.
    """
    return torch.where(values.isnan(), values, (values > 0).to(values.dtype))


def most_likely(scores: Tensor) -> Tensor:
    """Index of the greatest of K scores, (…, K) to (…): the decoding of a target of classes."""
    return scores.argmax(-1)


@dataclass(frozen=True)
class Target:
    """One thing to predict. Only classes are decoded: ``decode`` and ``classes`` go together.

    Attributes:
        size: K, the width of the prediction.
        decode: From raw predictions (…, K) to values in the form of the truth; None where the
            network's output is the value itself. :func:`most_likely`, say.
        truth: From the labels of the data to what is to be predicted; None where that is the same.
        classes: How many there are, if each truth is the index of one; None if it is a number.
        names: What the K outputs are called: the classes of a target that is one of K, the
            components of one that has K.
    """

    size: int
    decode: Callable[[Tensor], Tensor] | None = None
    truth: Callable[[Tensor], Tensor] | None = None
    classes: int | None = None
    names: Sequence[str] | None = None

    @property
    def components(self) -> int:
        """How many values a truth has: 1 of a target that is one of K classes, else K."""
        raw = torch.zeros(1, self.size)
        return (self.decode(raw) if self.decode else raw).numel()


@dataclass(frozen=True)
class Term:
    """One term of the loss: ``function(prediction, target)`` over the labelled rows of a target.

    Predictions are (n, K) and targets (n, K) or, for class indices, (n, 1).
    """

    target: str
    function: PairFunction


class Objective:
    """What is minimised, what is measured, and what decides which epoch is best.

    Args:
        targets: Name to width and decoding; models get ``outputs`` from it.
        terms: Name to loss term.
        weights: Weight of each loss term, and of each auxiliary loss that a model returns.
        metrics: Target to name to convention; names are unique over the targets and appear as
            ``valid/<name>``.
        monitor: The metric that selects epochs, on validation.
        mode: Whether a greater or a smaller monitor is better.
        history: Metrics logged at every epoch; the others are computed when a run is evaluated.

    Raises:
        ConfigError: If the parts do not fit each other.
    """

    def __init__(
        self,
        *,
        targets: dict[str, Target],
        terms: dict[str, Term],
        weights: dict[str, float],
        metrics: dict[str, dict[str, PairFunction]],
        monitor: str,
        mode: Literal["min", "max"],
        history: list[str],
    ) -> None:
        self.targets, self.terms, self.weights, self.metrics = targets, terms, weights, metrics
        self.monitor, self.mode = monitor, mode
        names = [name for functions in metrics.values() for name in functions]
        faults = [f"loss.weights.{n}: missing" for n in terms.keys() - weights.keys()]
        faults += [
            f"loss.terms.{n}.target: '{t.target}' is not in objective.targets {sorted(targets)}"
            for n, t in terms.items()
            if t.target not in targets
        ]
        faults += [
            f"objective.targets.{n}: no loss term is of it, so nothing would be learnt; give one "
            f"in loss.terms (as loss=multi_task does) or leave it out"
            for n in targets.keys() - {t.target for t in terms.values()}
        ]
        faults += [
            f"objective.metrics.{t}: not in objective.targets" for t in metrics.keys() - targets
        ]
        faults += [
            f"objective.targets.{n}: decode and classes belong together; give both, or neither"
            for n, t in targets.items()
            if (t.classes is None) != (t.decode is None)
        ]
        faults += [
            f"objective.targets.{n}.names: {len(t.names)} found, expected size, {t.size}"
            for n, t in targets.items()
            if t.names is not None and len(t.names) != t.size
        ]
        faults += [f"objective.metrics: '{n}' stands twice" for n in names if names.count(n) > 1]
        faults += [
            f"objective.{key}: '{n}' is not among the metrics {names} or loss"
            for key, n in [("monitor", monitor), *(("history", h) for h in history)]
            if n not in (*names, "loss")
        ]
        if faults:
            raise ConfigError("\n".join(sorted(set(faults))))
        self.history = [*dict.fromkeys([*history, *([monitor] if monitor != "loss" else [])])]

    @property
    def outputs(self) -> dict[str, int]:
        """Target to K, as models want it."""
        return {name: target.size for name, target in self.targets.items()}

    def losses(self, output: Output, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is what is minimised.

        A term whose target is unlabelled in the whole batch is 0. Everything is computed in
        float32, whatever the precision of the forward pass.

        Args:
            output: What the model returned.
            targets: Per target (B, K) or (B, T, K), NaN where unlabelled.
        """
        used = dict.fromkeys(term.target for term in self.terms.values())
        rows = {t: labelled(output.predictions[t], self.truth(t, targets[t])) for t in used}
        losses = {}
        for name, term in self.terms.items():
            prediction, target = rows[term.target]
            loss = term.function(prediction, target) if len(prediction) else prediction.sum()
            losses[name] = self.weights[name] * loss
        for name, loss in output.auxiliary.items():
            if name not in self.weights:
                raise ConfigError(f"loss.weights.{name}: missing; the model returns this loss")
            losses[name] = self.weights[name] * loss.float()
        return losses

    def truth(self, name: str, labels: Tensor) -> Tensor:
        """What is to be predicted of a target, (…, K'), where the data says `labels`."""
        truth = self.targets[name].truth
        return truth(labels) if truth else labels

    def decode(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions in the form of their truths: (B, K') or (B, T, K')."""
        decoded = {}
        for name, target in self.targets.items():
            values = raw = predictions[name]
            if target.decode:
                values = target.decode(raw)
                if values.ndim < raw.ndim:  # an argmax drops the last axis
                    values = values.unsqueeze(-1)
            decoded[name] = values
        return decoded

    def split_metrics(self, names: list[str] | None = None) -> dict[str, SplitMetrics]:
        """One accumulator per target.

        Args:
            names: Only these metrics; all of them by default.
        """
        chosen = {
            target: {n: f for n, f in functions.items() if names is None or n in names}
            for target, functions in self.metrics.items()
        }
        return {
            t: SplitMetrics(named, self.targets[t].components)
            for t, named in chosen.items()
            if named
        }


def labelled(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that carry a label, in float32: (…, K) and (…, K') to (n, K) and (n, K')."""
    prediction, target = prediction.flatten(0, -2).float(), target.flatten(0, -2).float()
    missing = target.isnan().any(-1)
    return (prediction[~missing], target[~missing]) if missing.any() else (prediction, target)


class Scores:
    """Losses and metrics of one pass over a split, gathered batch by batch.

    A loss is the mean over clips of what its batches gave, as it is minimised; a metric is computed
    once, from all predictions. Both count every device's clips.

    Args:
        objective: Defines them.
        names: Only these metrics; all of them by default.
    """

    def __init__(self, objective: Objective, names: list[str] | None = None) -> None:
        self.objective = objective
        self.metrics = objective.split_metrics(names)
        self._losses: list[dict[str, Tensor]] = []  # of each batch
        self._sizes: list[int] = []
        self._pairs: dict[str, list[tuple[Tensor, Tensor]]] = {t: [] for t in self.metrics}

    def update(
        self, output: Output, targets: Mapping[str, Tensor], losses: Mapping[str, Tensor]
    ) -> None:
        """Add one batch and the losses it gave. It only keeps them: this runs at every step."""
        decoded = self.objective.decode(output.predictions)
        for target, pairs in self._pairs.items():
            truth = self.objective.truth(target, targets[target])
            pairs.append((decoded[target].detach(), truth))
        self._losses.append({name: loss.detach() for name, loss in losses.items()})
        self._sizes.append(len(next(iter(output.predictions.values()))))

    def compute(self) -> dict[str, Tensor]:
        """``loss`` and, where it has several terms, ``loss_<term>``; then the metrics by name."""
        names = list(self._losses[0])
        values = torch.stack([torch.stack([b[name] for name in names]) for b in self._losses])
        sizes = torch.tensor(self._sizes, device=values.device, dtype=values.dtype)
        total = torch.cat([sizes @ values, sizes.sum()[None]])  # (terms + 1,)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
        means = total[:-1] / total[-1]
        scores = {"loss": means.sum()}
        if len(means) > 1:
            scores |= {f"loss_{name}": x for name, x in zip(names, means, strict=True)}
        for target, metric in self.metrics.items():
            metric.to(values.device)
            for prediction, truth in self._pairs[target]:
                metric.update(prediction, truth)
            self._pairs[target] = []
            scores |= metric.compute()
        return scores

    def reset(self) -> None:
        """Forget everything, before the next pass."""
        self._losses, self._sizes = [], []
        self._pairs = {target: [] for target in self.metrics}
        for metric in self.metrics.values():
            metric.reset()
