"""Scoring a split with objectives other than sentiment."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from msa_lightning.batch import Batch
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.datasets.loader import batch_loader
from msa_lightning.metrics import accuracy, mae
from msa_lightning.models.concat import Concatenation
from msa_lightning.modules.fusion import FusionModule
from msa_lightning.objective import Objective, Target, Term
from msa_lightning.scoring import contributions, mean_predictor, score

LABELS = np.array([0, 2, 2, 1, 2, np.nan, 0], np.float32)[:, None]


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(logits, classes[:, 0].long())


class Data:
    """Seven clips with a class label each, one of them unlabelled."""

    def ordered_dataloader(self, split: str) -> DataLoader[Batch]:
        rng = np.random.default_rng(0)
        dataset = VectorDataset(
            ids=[f"v_{i}" for i in range(7)],
            features={"text": rng.standard_normal((7, 4), np.float32)},
            present={"text": np.ones(7, bool)},
            targets={"emotion": LABELS},
        )
        return batch_loader(dataset, 3, None, num_workers=0, pin_memory=False)

    def targets(self, split: str) -> dict[str, np.ndarray]:
        return {"emotion": LABELS}


@pytest.fixture
def objective() -> Objective:
    return Objective(
        targets={"emotion": Target(3, partial(torch.argmax, dim=-1), classes=3)},
        terms={"ce": Term("emotion", cross_entropy)},
        weights={"ce": 1.0},
        metrics={"emotion": {"acc": accuracy}},
        monitor="acc",
        mode="max",
        history=["acc"],
    )


def test_classes_are_stored_one_per_clip(objective: Objective) -> None:
    net = Concatenation(dims={"text": 4}, outputs=objective.outputs, hidden=8, dropout=0.0)
    module = FusionModule(net=net, objective=objective)
    metrics, predictions = score(module, Data(), "test")
    assert len(predictions) == 7
    assert set(predictions["prediction"]) <= {0.0, 1.0, 2.0}
    known = predictions.dropna(subset="label")
    right = (known["label"] == known["prediction"]).mean()
    assert metrics["acc"] == pytest.approx(right)


def test_a_class_is_called_by_its_name_and_a_component_by_its_own(objective: Objective) -> None:
    net = Concatenation(dims={"text": 4}, outputs=objective.outputs, hidden=8, dropout=0.0)
    module = FusionModule(net=net, objective=objective)

    def names(**target: object) -> pd.DataFrame:
        objective.targets["emotion"] = Target(3, names=("low", "middle", "high"), **target)  # type: ignore[arg-type]
        return contributions(module, Data().ordered_dataloader("test"))

    found = names(decode=partial(torch.argmax, dim=-1), classes=3)
    assert len(found) == 7
    assert found["class"].tolist() == [("low", "middle", "high")[int(x)] for x in found["score"]]
    assert set(found["name"]) == {""}
    found = names()
    assert found["name"].tolist() == 7 * ["low", "middle", "high"]
    assert set(found["class"]) == {""}


def test_baseline_of_classes_is_the_commonest(objective: Objective) -> None:
    metrics = mean_predictor(objective, Data(), "test")
    assert metrics["acc"] == pytest.approx(3 / 6)
    entropy = -sum(p * np.log(p) for p in (2 / 6, 1 / 6, 3 / 6))
    assert metrics["loss"] == pytest.approx(entropy, abs=1e-6)


def test_labels_per_step_give_metrics_and_no_rows() -> None:
    class PerStep(torch.nn.Module):
        def forward(self, batch: Batch) -> object:
            from msa_lightning.batch import Output

            return Output({"valence": batch.features["text"][..., :1]})

    class Steps:
        def ordered_dataloader(self, split: str) -> list[Batch]:
            x = torch.arange(6.0).reshape(1, 6, 1)
            y = torch.full_like(x, 2.0)
            y[0, 4:] = float("nan")
            mask = torch.ones(1, 6, dtype=torch.bool)
            return [Batch({"text": x}, {"text": mask}, {"valence": y}, ["v_0"])]

    objective = Objective(
        targets={"valence": Target(1)},
        terms={"l1": Term("valence", F.l1_loss)},
        weights={"l1": 1.0},
        metrics={"valence": {"mae": mae}},
        monitor="mae",
        mode="min",
        history=["mae"],
    )
    metrics, rows = score(FusionModule(net=PerStep(), objective=objective), Steps(), "test")
    assert metrics["mae"] == pytest.approx((2 + 1 + 0 + 1) / 4)
    assert rows.empty
