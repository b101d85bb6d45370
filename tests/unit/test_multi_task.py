"""Sentiment and the presence of emotions in one objective: loss, baseline, metrics, decoding."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from msa_lightning.batch import Output
from msa_lightning.config import CONF, instantiate
from msa_lightning.errors import ConfigError
from msa_lightning.objective import Objective, Scores, Target, Term
from msa_lightning.scoring import mean_predictor


@pytest.fixture
def objective(configure: Callable[..., DictConfig]) -> Objective:
    cfg = configure("train", "objective=multi_task", "loss=multi_task", "loss.weights.emotions=2")
    return instantiate(cfg.objective)  # type: ignore[no-any-return]


@pytest.fixture
def clips() -> dict[str, torch.Tensor]:
    """Labels of 90 clips, emotions as intensities in thirds; the last clip has no emotions."""
    g = torch.Generator().manual_seed(0)
    emotions = (torch.randint(-4, 10, (90, 6), generator=g) / 3).clamp(min=0)
    emotions[-1] = math.nan
    return {"sentiment": torch.randn(90, 1, generator=g), "emotions": emotions}


def outputs(n: int) -> Output:
    g = torch.Generator().manual_seed(1)
    scores = {"sentiment": 1, "emotions": 6}
    return Output({name: torch.randn(n, k, generator=g) for name, k in scores.items()})


def test_losses_are_weighted_squares_and_cross_entropies(
    objective: Objective, clips: dict[str, torch.Tensor]
) -> None:
    output = outputs(90)
    losses = objective.losses(output, clips)
    squares = (output.predictions["sentiment"] - clips["sentiment"]).square().mean()
    assert losses["sentiment"].item() == pytest.approx(10 * squares.item(), rel=1e-5)
    present = (clips["emotions"][:-1] > 0).flatten()
    chances = output.predictions["emotions"][:-1].sigmoid().flatten()
    expected = log_loss(present, chances.double())
    assert losses["emotions"].item() == pytest.approx(2 * expected, rel=1e-5)


def test_scores_of_emotions_are_means_over_the_six(
    objective: Objective, clips: dict[str, torch.Tensor]
) -> None:
    output, scores = outputs(90), Scores(objective)
    for part in (slice(0, 63), slice(63, 64), slice(64, 90)):
        few = Output({name: x[part] for name, x in output.predictions.items()})
        labels = {name: x[part] for name, x in clips.items()}
        scores.update(few, labels, objective.losses(few, labels))
    found = scores.compute()
    truth = (clips["emotions"][:-1] > 0).T.numpy()
    said = (output.predictions["emotions"][:-1] > 0).T.numpy()
    pairs = list(zip(truth, said, strict=True))
    accuracy = [balanced_accuracy_score(*pair) for pair in pairs]
    f1 = [f1_score(*pair, average="weighted") for pair in pairs]
    assert found["emotions_wacc"].item() == pytest.approx(np.mean(accuracy), rel=1e-6)
    assert found["emotions_f1"].item() == pytest.approx(np.mean(f1), rel=1e-6)
    decoded = objective.decode(output.predictions)
    assert decoded["emotions"].unique().tolist() == [0, 1]


def test_the_baseline_knows_how_often_each_emotion_is_present(
    objective: Objective, clips: dict[str, torch.Tensor]
) -> None:
    class Data:
        def targets(self, split: str) -> dict[str, np.ndarray]:
            return {name: labels.numpy() for name, labels in clips.items()}

    found = mean_predictor(objective, Data(), "test")
    often = (clips["emotions"][:-1] > 0).double().mean(0)
    entropy = -(often * often.log() + (1 - often) * (1 - often).log()).mean()
    assert found["loss_emotions"] == pytest.approx(2 * entropy.item(), rel=1e-5)
    assert found["emotions_wacc"] == 0.5


def test_the_sweep_tries_the_weights_of_the_paper() -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("train", ["sweep=task_weights"], return_hydra_config=True)
    assert cfg.hydra.sweeper.params == {"loss.weights.sentiment": "1.0, 5.0, 10.0, 20.0"}
    assert cfg.loss.weights == {"sentiment": 10, "emotions": 1}
    assert set(cfg.objective.targets) == {"sentiment", "emotions"}


def test_classes_without_decoding_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"targets\.emotion: decode and classes belong"):
        Objective(
            targets={"emotion": Target(3, classes=3)},
            terms={"ce": Term("emotion", torch.nn.functional.mse_loss)},
            weights={"ce": 1.0},
            metrics={},
            monitor="loss",
            mode="min",
            history=[],
        )
