"""The runs that an adapter or a transfer builds on: are they what they should be, do they fit?"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig

from msa_lightning.adapters.material import videos
from msa_lightning.datasets.facts import scaled_range
from msa_lightning.errors import ConfigError, DataError
from msa_lightning.normalise import Normaliser
from msa_lightning.run import LoadedRun, Run, load_run, selected_checkpoint


def load_base(path: str) -> LoadedRun:
    """Load the run of a base model.

    Raises:
        ConfigError: If it is another kind of run.
    """
    run = load_run(path)
    if not {"model", "objective"} <= run.cfg.keys():
        raise ConfigError(
            f"base: {path} is a run without a model of its own; give one of msa-train. Adapter runs"
            " are given to msa-transfer as adapters.<modality>=<run>"
        )
    return run


def load_adapter(path: str, modality: str, key: str) -> LoadedRun:
    """Load the run of an adapter.

    Args:
        path: Its folder.
        modality: What it should adapt.
        key: Of the configuration, for messages: ``adapters`` or ``beside``.

    Raises:
        ConfigError: If it is another kind of run, or adapts another modality.
    """
    run = load_run(path)
    if (found := run.cfg.get("modality")) != modality:
        what = f"adapts {found}" if found else "is no adapter"
        raise ConfigError(
            f"{key}.{modality}: {path} {what}; give a run of msa-adapt adapter={modality}, or none"
        )
    return run


def load_beside(cfg: DictConfig) -> dict[str, LoadedRun]:
    """The finished adapter runs that an adapter is trained beside, by modality.

    Raises:
        ConfigError: If its settings do not go together.
    """
    beside = {m: path for m, path in cfg.beside.items() if path}
    if beside and not cfg.alignment.task:
        raise ConfigError(
            "beside: other adapters matter to the task loss alone; set alignment=task, or leave "
            f"out {', '.join(f'beside.{m}' for m in beside)}"
        )
    if cfg.modality in beside:
        raise ConfigError(
            f"beside.{cfg.modality}: is what this run trains; give adapters of other modalities"
        )
    _check_alone(cfg)
    return {m: load_adapter(path, m, "beside") for m, path in beside.items()}


def load_given(cfg: DictConfig) -> dict[str, LoadedRun]:
    """The adapter runs that a transfer is given, by modality.

    Raises:
        ConfigError: If they do not go together with its other settings.
    """
    given = {m: path for m, path in cfg.adapters.items() if path}
    if cfg.control not in (None, "untrained", "shuffled", "oracle", "direct"):
        raise ConfigError(f"control: '{cfg.control}' is not untrained, shuffled, oracle or direct")
    if cfg.control == "direct" and cfg.share != 1:
        raise ConfigError(
            "share: control=direct trains on all of the source's training clips; leave share out"
        )
    untaught = cfg.control in ("untrained", "direct", "oracle") or len(given) == len(cfg.modalities)
    if cfg.transductive and untaught:
        raise ConfigError("transductive: no adapter is trained here; leave it out")
    if cfg.control and given:
        raise ConfigError(
            f"control={cfg.control} is about adapters that are trained here; leave out "
            f"{', '.join(f'adapters.{m}' for m in given)}"
        )
    _check_alone(cfg)
    if unused := [m for m in given if m not in cfg.modalities]:
        raise ConfigError(
            f"adapters.{unused[0]}: modalities is {', '.join(cfg.modalities)}; choose others, or "
            "leave the adapter out"
        )
    return {m: load_adapter(path, m, "adapters") for m, path in given.items()}


def _check_alone(cfg: DictConfig) -> None:
    if not 0 <= cfg.alone <= 1:
        raise ConfigError(f"alone: {cfg.alone} is not a share of the batches, from 0 to 1")


def follow(
    data: dict[str, Any], runs: Sequence[LoadedRun], *, transductive: bool
) -> dict[str, Any]:
    """What a run that builds on others records about its data: their weights, too.

    Args:
        data: What the datamodule says about its files.
        runs: A base run, and adapters.
        transductive: Whether the run itself learns from features of test clips.
    """
    transductive |= any(r.provenance["data"].get("transductive", False) for r in runs)
    weights = {str(r.dir): selected_checkpoint(r.dir, r.cfg).read_bytes() for r in runs}
    digests = {run: hashlib.sha256(content).hexdigest() for run, content in weights.items()}
    synthetic = data["synthetic"] or any(r.provenance["data"]["synthetic"] for r in runs)
    return data | {"synthetic": synthetic, "transductive": transductive, "builds_on": digests}


def check(run: Run, data: dict[str, Any]) -> None:
    """Make sure that what an earlier call left belongs to this configuration, data and weights.

    Args:
        run: The run that is about to start.
        data: What :func:`follow` gave.

    Raises:
        ConfigError: If the folder holds a run of another configuration.
        DataError: If the data, or weights of a run it builds on, have changed since.
    """
    run.check(data)
    before = run.provenance.get("data", {}).get("builds_on", {})
    for (name, now), then in zip(data["builds_on"].items(), before.values(), strict=False):
        if now != then and not run.cfg.again:
            raise DataError(
                f"{name}: its weights have changed since {run.dir} was made with them; set "
                "again=true, or choose another paths.run"
            )


def same_scale(base: LoadedRun, datamodule: Any) -> None:
    """Refuse a source whose labels are not those of the base run.

    Raises:
        DataError: If the base model's target is not there, or its range differs.
    """
    for name in base.objective.targets:
        here, there = datamodule.target_facts.get(name), base.cfg.data.targets[name]
        if here is None:
            raise DataError(
                f"data.targets: no {name}, which {base.dir} was trained to predict; choose a source"
                " with the same target"
            )
        own, wanted = scaled_range(here), scaled_range(there)
        if not np.allclose(own, wanted):
            factor = wanted[1] / own[1] if own[1] else 1
            scale = here.get("scale", 1) * factor
            same = np.allclose([x * factor for x in own], wanted)
            remedy = f"++data.targets.{name}.scale={scale}" if same else "bring them to one scale"
            raise DataError(
                f"data.targets.{name}.range: the labels lie in {own}, but {base.dir} was trained on"
                f" labels in {wanted}; {remedy}"
            )


def unseen_test(base: LoadedRun, source: Any) -> None:
    """Refuse a base run that was trained or selected on videos of the source's test split.

    Raises:
        DataError: If there are such videos.
    """

    def of(datamodule: Any, split: str) -> set[str]:
        clips = datamodule.dataset(split).ids
        known = videos(datamodule, clips)
        return {known.get(clip, clip) for clip in clips}

    seen = {video for split in base.datamodule.fit_splits for video in of(base.datamodule, split)}
    if both := sorted(seen & of(source, "test")):
        raise DataError(
            f"{base.dir}: was trained or selected on {len(both)} videos of the source's test "
            f"split, {both[0]} say; give both the same folds"
        )


def same_spaces(adapter: LoadedRun, base: LoadedRun, datamodule: Any) -> None:
    """Refuse an adapter that was trained from, or into, another space: size or normaliser differ.

    Args:
        adapter: The adapter.
        base: The base run.
        datamodule: Of the source, its normaliser fitted.

    Raises:
        DataError: If the source or the target space is not the adapter's.
    """
    m = adapter.cfg.modality
    for file, here, what in (
        ("normaliser.npz", datamodule.normaliser, "source"),
        ("target_normaliser.npz", base.datamodule.normaliser, "target"),
    ):
        there = Normaliser.load(adapter.dir / file)
        for kind in ("centre", "scale"):
            a, b = getattr(there, kind)[m], getattr(here, kind)[m]
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-4, atol=1e-6):
                sizes = f" ({len(a)} columns, here {len(b)})" if a.shape != b.shape else ""
                raise DataError(
                    f"{adapter.dir}: this {m} adapter was trained for another {what} space{sizes} "
                    "or normaliser; train it again with this base run and these data"
                )
