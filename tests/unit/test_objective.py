"""Regression, classification, valence-arousal and several tasks are values of one Objective."""

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msa_lightning.batch import Clip, Output, collate
from msa_lightning.errors import ConfigError
from msa_lightning.metrics import accuracy, corr, mae
from msa_lightning.objective import Objective, Scores, Target, Term, most_likely

NAN = math.nan


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """From (n, K) scores and (n, 1) class indices."""
    return F.cross_entropy(logits, classes.squeeze(1).long())


def objective(**changes: Any) -> Objective:
    settings: dict[str, Any] = {
        "targets": {
            "sentiment": Target(1),
            "emotion": Target(3, functools.partial(torch.argmax, dim=-1), classes=3),
        },
        "terms": {
            "regression": Term("sentiment", F.mse_loss),
            "classification": Term("emotion", cross_entropy),
        },
        "weights": {"regression": 10.0, "classification": 1.0},
        "metrics": {"sentiment": {"mae": mae, "corr": corr}, "emotion": {"acc": accuracy}},
        "monitor": "corr",
        "mode": "max",
        "history": ["mae"],
    }
    return Objective(**settings | changes)


def sentiment_only(**changes: Any) -> Objective:
    settings: dict[str, Any] = {
        "targets": {"sentiment": Target(1)},
        "terms": {"regression": Term("sentiment", F.mse_loss)},
        "weights": {"regression": 1.0},
        "metrics": {"sentiment": {"mae": mae, "corr": corr}},
    }
    return objective(**settings | changes)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


SCORES = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.1, 0.2], [1.0, 3.0, 0.0]])


def test_models_are_told_the_width_of_each_target() -> None:
    assert objective().outputs == {"sentiment": 1, "emotion": 3}


def test_regression_and_classification_together() -> None:
    output = Output({"sentiment": column(1, 2, 3), "emotion": SCORES})
    targets = {"sentiment": column(1, 0, 0), "emotion": column(0, 2, 0)}
    losses = objective().losses(output, targets)
    assert list(losses) == ["regression", "classification"]
    assert losses["regression"].item() == pytest.approx(10 * (0 + 4 + 9) / 3)
    expected = -SCORES.log_softmax(1)[torch.arange(3), torch.tensor([0, 2, 0])].mean()
    torch.testing.assert_close(losses["classification"], expected)


def test_classes_are_decoded_and_values_left_alone() -> None:
    decoded = objective().decode({"sentiment": column(1, 2, 3), "emotion": SCORES})
    assert decoded["emotion"].tolist() == [[0], [2], [1]]
    assert torch.equal(decoded["sentiment"], column(1, 2, 3))


def test_metrics_see_decoded_classes() -> None:
    scores = Scores(objective())
    output = Output({"sentiment": column(1, 2, 3), "emotion": SCORES})
    targets = {"sentiment": column(1, 0, 0), "emotion": column(0, 2, 0)}
    scores.update(output, targets, objective().losses(output, targets))
    assert scores.compute()["acc"].item() == pytest.approx(2 / 3)


def test_valence_and_arousal_per_step() -> None:
    """Steps that only pad a clip count neither in the loss nor in a metric."""
    clips = [
        Clip(f"v_{t}", {"audio": torch.ones(t, 1)}, {"affect": torch.full((t, 2), float(t))})
        for t in (1, 3)
    ]
    targets = collate(clips).targets
    values = objective(
        targets={"affect": Target(2)},
        terms={"affect": Term("affect", F.l1_loss)},
        weights={"affect": 1.0},
        metrics={"affect": {"mae": mae}},
        monitor="mae",
    )
    prediction = torch.zeros(2, 3, 2, requires_grad=True)
    output = Output({"affect": prediction})
    losses = values.losses(output, targets)
    assert losses["affect"].item() == pytest.approx((1 * 1 + 3 * 3) / 4)
    losses["affect"].backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad != 0, ~targets["affect"].isnan())
    scores = Scores(values)
    scores.update(output, targets, losses)
    assert scores.compute()["mae"].item() == pytest.approx(2.5)


def test_classes_per_step() -> None:
    """Predictions (B, T, K) with one class index per step, (B, T, 1)."""
    values = objective(
        targets={"emotion": Target(3, functools.partial(torch.argmax, dim=-1), classes=3)},
        terms={"classification": Term("emotion", cross_entropy)},
        metrics={"emotion": {"acc": accuracy}},
        monitor="acc",
        history=[],
    )
    targets = {"emotion": torch.tensor([[[0.0], [2.0]], [[1.0], [NAN]]])}
    output = Output({"emotion": torch.stack([SCORES[:2], SCORES[1:]])})
    losses = values.losses(output, targets)
    expected = cross_entropy(SCORES[[0, 1, 1]], column(0, 2, 1))
    torch.testing.assert_close(losses["classification"], expected)
    scores = Scores(values)
    scores.update(output, targets, losses)
    assert scores.compute()["acc"].item() == pytest.approx(2 / 3)


def test_unlabelled_clips_are_left_out_of_their_target_only() -> None:
    predictions = {"sentiment": column(1, 2, 3).requires_grad_(), "emotion": SCORES}
    targets = {"sentiment": column(0, NAN, NAN), "emotion": column(NAN, 2, 0)}
    losses = objective().losses(Output(predictions), targets)
    assert losses["regression"].item() == 10
    torch.testing.assert_close(losses["classification"], cross_entropy(SCORES[1:], column(2, 0)))
    losses["regression"].backward()
    assert predictions["sentiment"].grad is not None
    assert predictions["sentiment"].grad.flatten().tolist() == pytest.approx([20, 0, 0])


def test_target_without_a_label_in_the_batch_costs_nothing() -> None:
    logits = SCORES.clone().requires_grad_()
    output = Output({"sentiment": column(1, 2, 3), "emotion": logits})
    targets = {"sentiment": column(1, 0, 0), "emotion": column(NAN, NAN, NAN)}
    losses = objective().losses(output, targets)
    assert losses["classification"].item() == 0
    torch.stack(list(losses.values())).sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_losses_are_float32_whatever_the_forward_pass_was() -> None:
    output = Output(
        {"sentiment": column(1, 2, 3).bfloat16(), "emotion": SCORES.bfloat16()},
        auxiliary={"cycle": torch.tensor(2.0).bfloat16()},
    )
    targets = {"sentiment": column(1, 0, 0), "emotion": column(0, 2, 0)}
    weights = {"regression": 1.0, "classification": 1.0, "cycle": 0.1}
    losses = objective(weights=weights).losses(output, targets)
    assert {x.dtype for x in losses.values()} == {torch.float32}


def test_auxiliary_loss_is_weighted() -> None:
    values = sentiment_only(weights={"regression": 1.0, "cycle": 0.1})
    output = Output({"sentiment": column(1)}, auxiliary={"cycle": torch.tensor(5.0)})
    losses = values.losses(output, {"sentiment": column(0)})
    assert {k: x.item() for k, x in losses.items()} == pytest.approx(
        {"regression": 1, "cycle": 0.5}
    )


def test_auxiliary_loss_needs_a_weight() -> None:
    output = Output({"sentiment": column(1)}, auxiliary={"cycle": torch.tensor(5.0)})
    with pytest.raises(ConfigError, match=r"loss\.weights\.cycle: missing"):
        sentiment_only().losses(output, {"sentiment": column(0)})


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        objective(
            terms={"regression": Term("sentimant", F.mse_loss), "other": Term("emotion", mae)},
            weights={"regression": 1.0},
            metrics={
                "sentiment": {"mae": mae},
                "emotion": {"mae": mae},
                "arousal": {"corr": corr},
            },
            monitor="f1",
            history=["acc7"],
        )
    lines = str(error.value).splitlines()
    assert len(lines) == 7
    for fault in (
        "objective.targets.sentiment: no loss term is of it",
        "loss.weights.other: missing",
        "loss.terms.regression.target: 'sentimant' is not in objective.targets ['emotion', ",
        "objective.metrics.arousal: not in objective.targets",
        "objective.metrics: 'mae' stands twice",
        "objective.monitor: 'f1' is not among the metrics",
        "objective.history: 'acc7' is not among the metrics",
    ):
        assert any(line.startswith(fault) for line in lines), fault


def test_every_output_has_a_name_or_none() -> None:
    three = Target(3, decode=most_likely, classes=3, names=["low", "high"])
    wrong = r"targets\.emotion\.names: 2 found, expected size, 3"
    with pytest.raises(ConfigError, match=wrong):
        objective(targets={"sentiment": Target(1), "emotion": three})


def test_monitor_is_always_in_the_history() -> None:
    assert objective(history=["mae"]).history == ["mae", "corr"]
    assert objective(history=["corr", "mae"]).history == ["corr", "mae"]
    assert objective(history=["mae"], monitor="loss", mode="min").history == ["mae"]


def test_only_the_metrics_asked_for_are_computed() -> None:
    split = objective().split_metrics(["acc"])
    assert {target: list(metric.functions) for target, metric in split.items()} == {
        "emotion": ["acc"]
    }
    assert set(objective().split_metrics()) == {"sentiment", "emotion"}


def test_loss_of_a_split_is_the_mean_over_clips_and_metrics_see_the_whole() -> None:
    values = sentiment_only()
    scores = Scores(values)
    prediction, target = torch.arange(7.0)[:, None], column(1, 1, 2, 2, 8, 5, 9)
    for rows in (slice(0, 4), slice(4, 6), slice(6, 7)):
        output, targets = Output({"sentiment": prediction[rows]}), {"sentiment": target[rows]}
        scores.update(output, targets, values.losses(output, targets))
    found = {k: x.item() for k, x in scores.compute().items()}
    assert found == pytest.approx(
        {
            "loss": F.mse_loss(prediction, target).item(),
            "mae": mae(prediction.flatten(), target.flatten()).item(),
            "corr": corr(prediction.flatten(), target.flatten()).item(),
        }
    )


def test_each_of_several_losses_is_reported() -> None:
    values = objective()
    scores = Scores(values, ["acc"])
    per_batch = []
    for n in (3, 1):
        output = Output({"sentiment": torch.ones(n, 1), "emotion": SCORES[:n]})
        targets = {"sentiment": torch.full((n, 1), float(n)), "emotion": torch.zeros(n, 1)}
        losses = values.losses(output, targets)
        scores.update(output, targets, losses)
        per_batch.append({k: x.item() for k, x in losses.items()})
    mean = {k: (3 * per_batch[0][k] + per_batch[1][k]) / 4 for k in per_batch[0]}
    found = {k: x.item() for k, x in scores.compute().items()}
    assert list(found) == ["loss", "loss_regression", "loss_classification", "acc"]
    assert found["loss"] == pytest.approx(sum(mean.values()))
    assert found["loss_regression"] == pytest.approx(mean["regression"])
    assert found["loss_classification"] == pytest.approx(mean["classification"])


def test_scores_of_an_epoch_forget_the_one_before() -> None:
    values, scores = sentiment_only(), Scores(sentiment_only())
    for offset in (5.0, 1.0):
        output = Output({"sentiment": column(0, 1, 2).requires_grad_()})
        targets = {"sentiment": column(0, 1, 2) + offset}
        scores.reset()
        scores.update(output, targets, values.losses(output, targets))
        found = scores.compute()
        assert found["mae"].item() == offset
        assert found["loss"].item() == pytest.approx(offset**2)
        assert not found["loss"].requires_grad
