"""Metrics and predictions of a whole split, from a model and from the simplest baseline."""

import itertools
import math
import warnings
from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from msa_lightning.batch import Batch, Output
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
            label = objective.truth(name, batch.targets[name])
            columns = {"label": label, "prediction": values}
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
    train, labels = (
        {name: torch.from_numpy(y) for name, y in datamodule.targets(s).items()}
        for s in ("train", split)
    )
    predictions = {}
    for name, target in objective.targets.items():
        known = objective.truth(name, train[name])
        if target.classes is None:
            constant = known.nanmean(0)
        elif known.shape[1] < target.size:  # their frequencies in training, as logits
            classes = known[~known.isnan()].long()
            constant = (torch.bincount(classes, minlength=target.size) / len(classes)).log()
        else:  # several that are present or not
            constant = torch.logit(known.nanmean(0), eps=1e-6)
        predictions[name] = constant.expand(len(labels[name]), -1)
    scores, output = Scores(objective), Output(predictions)
    scores.update(output, labels, objective.losses(output, labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the correlation of a constant is undefined, as expected
        return {name: float(value) for name, value in scores.compute().items()}


@torch.inference_mode()
def contributions(module: FusionModule, batches: Iterable[Batch]) -> pd.DataFrame:
    """Scores of clips without labels, and what each modality contributes to them.

    The contribution of a modality is what the score loses when that modality is masked (occlusion);
    contributions need not add up to the score.

    Returns:
        A row per clip, target and component with columns id, target, component, score (NaN where
        every modality is missing), name (of the component; its number where the objective has none)
        and class (that the score numbers; empty without names), and ``contribution_<modality>``,
        NaN where it is missing, nothing else is there, or the score is a class, whose number means
        nothing.
    """
    module.eval()
    classes = [name for name, target in module.objective.targets.items() if target.classes]
    rows = []
    for batch in batches:
        present = {m: mask.any(1).cpu() for m, mask in batch.masks.items()}
        number = torch.stack(list(present.values())).sum(0)
        scores = _decode(module, batch)
        without = {
            m: _decode(module, batch.replace(masks={**batch.masks, m: torch.zeros_like(mask)}))
            for m, mask in batch.masks.items()
        }
        for name, values in scores.items():
            names, components = module.objective.targets[name].names or (), values.shape[1]
            for i, k in itertools.product(range(len(batch)), range(components)):
                score = float(values[i, k]) if number[i] else math.nan
                row = {"id": batch.ids[i], "target": name, "component": k, "score": score}
                numbered = str(k) if components > 1 else ""
                row["name"] = names[k] if len(names) == components else numbered
                one_of_them = len(names) > components and number[i]
                row["class"] = names[int(score)] if one_of_them else ""
                for m, others in without.items():
                    counts = present[m][i] and number[i] > 1 and name not in classes
                    rest = float(others[name][i, k])
                    row[f"contribution_{m}"] = score - rest if counts else math.nan
                rows.append(row)
    return pd.DataFrame(rows)


def _decode(module: FusionModule, batch: Batch) -> dict[str, Tensor]:
    batch = batch.to(module.device).as_type(module.precision_type)
    return module.objective.decode(module.net(batch).predictions)
