"""Metrics and predictions of a whole split, from a model and from the simplest baseline."""

import warnings
from typing import Any

import pandas as pd
import torch

from msa_lightning.batch import Output
from msa_lightning.modules.fusion import FusionModule
from msa_lightning.objective import Objective, Scores

_COLUMNS = ["split", "id", "target", "component", "label", "prediction"]


@torch.inference_mode()
def score(
    module: FusionModule, datamodule: Any, split: str
) -> tuple[dict[str, float], pd.DataFrame]:
    """Metrics and predictions of one split, in eval mode, on one device.

    Returns:
        All metrics by name, NaN where undefined; and one row per clip, target and component with
        columns split, id, target, component, label, prediction and, where the model has them,
        ``prediction_<modality>``.
    """
    module.eval()
    objective, device = module.objective, module.device
    scores, tables = Scores(objective), []
    for batch in datamodule.ordered_dataloader(split):
        batch = batch.to(device)
        output = module.net(batch.as_type(module.precision_type))
        scores.update(output, batch.targets, objective.losses(output, batch.targets))
        decoded = objective.decode(output.predictions)
        unimodal = {m: objective.decode(p) for m, p in output.unimodal.items()}
        for name, values in decoded.items():
            if values.ndim != 2:
                continue  # one value per step: metrics only
            k = values.shape[1]
            columns = {"label": batch.targets[name], "prediction": values}
            columns |= {f"prediction_{m}": p[name] for m, p in unimodal.items()}
            tables.append(
                pd.DataFrame(
                    {
                        "split": split,
                        "id": [i for i in batch.ids for _ in range(k)],
                        "target": name,
                        "component": list(range(k)) * len(batch),
                        **{c: x.flatten().float().cpu().numpy() for c, x in columns.items()},
                    }
                )
            )
    metrics = {name: float(value) for name, value in scores.compute().items()}
    if not tables:
        return metrics, pd.DataFrame(columns=_COLUMNS)
    return metrics, pd.concat(tables, ignore_index=True)


def mean_predictor(objective: Objective, datamodule: Any, split: str) -> dict[str, float]:
    """Metrics of predicting, for every clip of a split, the mean label of the training clips.

    For a target of classes, their frequencies.
    """
    train, truth = (
        {name: torch.from_numpy(y) for name, y in datamodule.targets(s).items()}
        for s in ("train", split)
    )
    predictions = {}
    for name, target in objective.targets.items():
        if train[name].shape[1] < target.size:  # classes: their frequencies in training, as logits
            classes = train[name][~train[name].isnan()].long()
            constant = (torch.bincount(classes, minlength=target.size) / len(classes)).log()
        else:
            constant = train[name].nanmean(0)
        predictions[name] = constant.expand(len(truth[name]), -1)
    scores, output = Scores(objective), Output(predictions)
    scores.update(output, truth, objective.losses(output, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the correlation of a constant is undefined, as expected
        return {name: float(value) for name, value in scores.compute().items()}
