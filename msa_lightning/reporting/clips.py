"""Clip by clip: what each group says, where modalities disagree, what was spoken."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from msa_lightning import MODALITIES
from msa_lightning.config import instantiate
from msa_lightning.errors import USER_ERRORS, DataError
from msa_lightning.reporting.collect import Runs

Frames = Mapping[str, pd.DataFrame]
"""Labels and each seed's predictions by group, index id; of one component of a target."""


def tabulate(runs: Runs, frames: Frames, alone: Frames, *, classes: bool) -> pd.DataFrame:
    """One row per clip: the largest disagreement of modalities first, then the largest error.

    Args:
        runs: From ``collect``.
        frames: What each group says.
        alone: What single modalities say, from :func:`single_modalities`.
        classes: Whether labels are classes: then disagreement and error are 0 or 1.

    Returns:
        Index id; columns label, error (of the :func:`fullest` group), disagreement (greatest minus
        smallest prediction from a single modality; absent where there are no two of them) and a
        column of predictions per group or single modality: the mean over seeds, of classes the
        most frequent. NaN where a group does not have the clip, or has it with another label than
        the groups before.
    """
    label = pd.concat([frame["label"] for frame in frames.values()])
    label = label[~label.index.duplicated()]
    said = {
        name: _over_seeds(frame[frame["label"] == label.reindex(frame.index)], classes=classes)
        for name, frame in {**frames, **alone}.items()
    }
    table = pd.DataFrame(said).reindex(label.index)
    differences = {"error": table[fullest(runs, frames)] - label}
    if len(alone) > 1:
        single = table[list(alone)]
        spread = single.max(axis=1) - single.min(axis=1)
        differences["disagreement"] = spread.where(single.notna().sum(axis=1) > 1)
    sizes = pd.DataFrame(differences).abs()
    if classes:
        sizes = (sizes > 0).astype(float).where(sizes.notna())
    ordered = pd.concat([label, sizes, table], axis=1)
    order = list(differences)[::-1]
    ranked: pd.DataFrame = ordered.sort_values(order, ascending=False, kind="stable")
    return ranked


def fullest(runs: Runs, groups: Collection[str]) -> str:
    """The first group with the most modalities."""
    return max(groups, key=lambda group: len(runs.of(group)[0].cfg.modalities))


def single_modalities(
    runs: Runs, frames: Frames, split: str, target: str, component: int
) -> Frames:
    """Predictions from single modalities.

    Those of the first group of each single modality; if there are no two such groups, those of the
    first group whose model gives a prediction per modality beside its own. May be empty.
    """
    single: dict[str, str] = {}
    for group in frames:
        modalities = runs.of(group)[0].cfg.modalities
        if len(modalities) == 1:
            single.setdefault(modalities[0], group)
    if len(single) > 1:
        return {group: frames[group] for group in single.values()}
    for group in frames:
        columns = set(runs.of(group)[0].predictions)
        if found := [m for m in MODALITIES if f"prediction_{m}" in columns]:
            every = {m: runs.predictions(group, split, target, f"prediction_{m}") for m in found}
            return {f"{group}: {m} alone": of_component(f, component) for m, f in every.items()}
    return {}


def of_component(frame: pd.DataFrame, component: int) -> pd.DataFrame:
    """The rows of one component, by id."""
    return frame[frame.index.get_level_values("component") == component].droplevel("component")


def transcripts(runs: Runs, groups: Sequence[str]) -> dict[str, str]:
    """What is said in each clip, where the groups' data lists it; no media are opened."""
    sources = [runs.of(group)[0].cfg.data.get("source") for group in groups]
    known: dict[str, str] = {}
    for source in {str(source): source for source in sources if source}.values():
        known |= _listed(source)
    return known


def read_transcripts(path: Path) -> dict[str, str]:
    """Transcripts by clip from a csv with the columns id and text.

    Raises:
        DataError: If it is no such file.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return dict(zip(table["id"], table["text"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"transcripts: {path} cannot be read ({error}); give a csv with the columns id, text"
        ) from error


def missing_seeds(runs: Runs) -> dict[str, list[int]]:
    """Seeds that other groups have, by group."""
    seeds = runs.table.groupby("group", sort=False)["seed"].agg(set)
    every: set[int] = set().union(*seeds)
    return {str(group): sorted(every - own) for group, own in seeds.items() if every - own}


def _over_seeds(frame: pd.DataFrame, *, classes: bool) -> "pd.Series[Any]":
    seeds = frame.drop(columns=["label", "mean"])
    return seeds.mode(axis=1)[0] if classes and len(seeds) else seeds.mean(axis=1)


def _listed(source: DictConfig) -> dict[str, str]:
    node = source.copy()
    node.pop("make", None)  # a report makes no data
    try:
        clips = instantiate(node).manifest().clips
    except (*USER_ERRORS, OSError):  # the corpus is not on this machine
        return {}
    return {clip.id: clip.text.text for clip in clips if clip.text}
