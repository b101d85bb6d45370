"""Metrics of a whole split."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class SplitMetrics(Metric):
    """Hold the predictions and truths of a split once and apply every metric to the whole.

    One metric, not a `MetricCollection` of many: a correlation or an F1 averaged over batches is
    wrong when batches are uneven, and is not what the papers compute; the split is stored and,
    under DDP, gathered once, however many metrics are wanted; and there are no compute groups,
    which decide from the first batch which metrics may share their state.

    `update` only copies: it neither computes nor waits for the device, so it can be called at every
    training step. `compute` works on the CPU and returns 0-d float32 tensors by name. `reset` frees
    the split. Under DDP every rank gets the metrics of the samples of all ranks, also when some
    ranks saw none; samples that a distributed sampler repeats are counted as often as they come.

    A metric of several values is the mean over those that have labels (six emotions have six F1
    scores), and NaN where one of them is.

    Args:
        functions: Metrics by name, each from prediction and truth, two float32 vectors (N,) without
            NaN, to a 0-d tensor; those of `msa_lightning.metrics.sentiment`, for example.
        outputs: K, the number of values of a sample.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    predictions: list[Tensor]
    targets: list[Tensor]

    def __init__(
        self, functions: dict[str, Callable[[Tensor, Tensor], Tensor]], outputs: int = 1
    ) -> None:
        super().__init__()
        self.functions, self.outputs = functions, outputs
        self.add_state("predictions", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: Values or decoded class indices, (B,) if K is 1, (B, K) or (B, T, K).
            target: As many truths in the same order; NaN where unlabelled.

        Raises:
            ValueError: If the two differ in their number of elements.
        """
        if prediction.numel() != target.numel():
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in "
                "their number of elements; decode class scores to one index per truth first"
            )
        self.predictions.append(_flat_copy(prediction))
        self.targets.append(_flat_copy(target))

    def compute(self) -> dict[str, Tensor]:
        """Apply every function to the labelled samples seen since the last `reset`.

        A metric that does not exist for these samples is NaN, and one warning names all such. All
        are NaN when no sample is labelled, and when a prediction is NaN: a diverged model has no
        accuracy, although NaN > 0 is false and would give it one.
        """
        prediction, target = _whole(self.predictions), _whole(self.targets)
        prediction, target = prediction.view(-1, self.outputs), target.view(-1, self.outputs)
        labelled = ~target.isnan()  # selected here, not in update: a selection waits for the device
        count, diverged = int(labelled.sum()), int(prediction[labelled].isnan().sum())
        if not labelled.any() or diverged:
            nan = torch.full((), torch.nan, dtype=torch.float32)
            results = dict.fromkeys(self.functions, nan)
        else:
            columns = zip(prediction.T, target.T, labelled.T, strict=True)
            pairs = [(p[known], y[known]) for p, y, known in columns if known.any()]
            results = {
                name: torch.stack([metric(p, y) for p, y in pairs]).mean()
                for name, metric in self.functions.items()
            }
        if undefined := [name for name, value in results.items() if value.isnan()]:
            warnings.warn(
                f"undefined on n = {count} labelled values ({diverged} predictions are "
                f"NaN), reported as NaN: {', '.join(undefined)}",
                stacklevel=2,
            )
        return results


def _flat_copy(values: Tensor) -> Tensor:
    # a copy: a view would keep the network's whole output alive and follow its in-place changes
    return values.detach().flatten().to(torch.float32, copy=True)


def _whole(state: list[Tensor] | Tensor) -> Tensor:
    # a list while accumulating, a tensor once gathered
    return dim_zero_cat(state).cpu() if len(state) else torch.empty(0)
