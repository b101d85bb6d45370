"""Classes: loss, decoding and metrics of ``objective=emotion``, pairs of one class."""

import math
from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from sklearn.metrics import accuracy_score, f1_score

from msa_lightning.adapters.pairings import LabelMatched
from msa_lightning.batch import Output
from msa_lightning.config import instantiate
from msa_lightning.losses import cross_entropy
from msa_lightning.objective import Objective, Scores


@pytest.fixture
def emotion(configure: Callable[..., DictConfig]) -> Objective:
    cfg = configure("train", "data=ravdess", "objective=emotion", "loss=cross_entropy")
    return instantiate(cfg.objective)  # type: ignore[no-any-return]


def test_cross_entropy_is_the_surprise_at_the_true_class() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    expected = [math.log(math.e**2 + 1 + math.e) - 2, math.log(2 + math.e**3) - 0]
    found = cross_entropy(logits, torch.tensor([[0.0], [2.0]]))
    assert found.item() == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_unlabelled_clips_teach_nothing(emotion: Objective) -> None:
    logits, labels = torch.randn(4, 8), torch.tensor([[3.0], [math.nan], [0.0], [math.nan]])
    (loss,) = emotion.losses(Output({"emotion": logits}), {"emotion": labels}).values()
    assert loss == cross_entropy(logits[::2], labels[::2])


def test_scores_are_those_of_scikit_learn_in_uneven_batches(emotion: Objective) -> None:
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 8, generator=g), torch.randint(8, (50, 1), generator=g)
    scores = Scores(emotion)
    for part in (slice(0, 31), slice(31, 32), slice(32, 50)):
        output, targets = Output({"emotion": logits[part]}), {"emotion": labels[part].float()}
        scores.update(output, targets, emotion.losses(output, targets))
    found, predicted = scores.compute(), logits.argmax(1)
    assert found["acc"].item() == pytest.approx(accuracy_score(labels, predicted))
    assert found["f1_macro"].item() == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_the_decoded_value_is_one_class_per_clip(emotion: Objective) -> None:
    logits = torch.eye(8)[[4, 0, 7]]
    assert emotion.decode({"emotion": logits})["emotion"].tolist() == [[4], [0], [7]]


def test_clips_are_paired_within_their_class() -> None:
    labels = torch.arange(8.0).repeat_interleave(12)[:, None]
    pairing = LabelMatched(
        targets=labels + torch.rand(96, 1) / 2,  # the integer part is the class
        target_labels=labels,
        source_labels=torch.arange(8.0)[:, None],
        pairs=None,
        generator=torch.Generator().manual_seed(0),
        neighbours=10,
    )
    rows = torch.arange(8).repeat(100)
    drawn = pairing(rows, torch.zeros(800, 1))
    assert drawn.floor()[:, 0].tolist() == rows.tolist()
    assert len(drawn.unique()) == 96  # all of a class, not the nearest ten
