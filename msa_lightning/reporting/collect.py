"""Run folders → one table, one row per run; the unusable ones are listed with their reason."""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from msa_lightning.errors import USER_ERRORS, DataError, DataNotFoundError
from msa_lightning.reporting.groups import Groups, Settings, flat
from msa_lightning.sweep import unfinished

if TYPE_CHECKING:
    from msa_lightning.objective import PairFunction
    from msa_lightning.run import LoadedRun


@dataclass(frozen=True)
class Runs:
    """Finished runs, ready to compare.

    Attributes:
        table: One row per run with columns group, seed, modalities, ``<split>/<metric>`` for every
            stored metric (the mean predictor's as ``mean_predictor/<metric>``; NaN if undefined),
            commit, digest (of the data), synthetic and run (the folder's name).
        loaded: The runs, in the order of the rows.
        left_out: Folder to the reason why it is not in the table.
        settings: What differs between the groups: a row per group, a column per dotted key.
    """

    table: pd.DataFrame
    loaded: list["LoadedRun"]
    left_out: dict[Path, str]
    settings: pd.DataFrame

    @property
    def metrics(self) -> list[str]:
        """Columns of the table that are metrics, ``<split>/<metric>``."""
        return [str(column) for column in self.table if "/" in str(column)]

    @property
    def groups(self) -> list[str]:
        """Groups in the order of the table."""
        return list(self.table["group"].unique())

    def of(self, group: str) -> list["LoadedRun"]:
        """The runs of a group, by seed."""
        return [self.loaded[i] for i in self.table.index[self.table["group"] == group]]

    def function(self, group: str, metric: str) -> "tuple[str, PairFunction] | None":
        """Target and convention behind a metric such as ``test/mae``; None for a loss."""
        name = metric.split("/")[-1]
        for target, functions in self.of(group)[0].objective.metrics.items():
            if name in functions:
                return target, functions[name]
        return None

    def predictions(
        self, group: str, split: str, target: str, column: str = "prediction"
    ) -> pd.DataFrame:
        """Labelled values and their predictions, aligned by clip.

        Args:
            group: Whose.
            split: Of which clips.
            target: Of what.
            column: ``prediction``, or ``prediction_<modality>`` of a model that has them.

        Returns:
            Rows by id and component, sorted; float32 columns ``label``, ``mean`` (what the mean
            predictor says: the mean label of the first run's training clips; of classes the most
            frequent) and, by its number, each seed's prediction.

        Raises:
            DataError: If a file is damaged, or the runs differ in their clips or labels.
        """
        runs = self.of(group)
        frames = {run.cfg.seed: _predictions(run, split, target, column) for run in runs}
        labels = frames[runs[0].cfg.seed]["label"]
        for run, frame in zip(runs, frames.values(), strict=True):
            if not frame["label"].equals(labels):
                raise DataError(f"{run.dir}: other {split} clips or labels than {runs[0].dir}")
        learnt = _predictions(runs[0], "train", target)["label"].groupby(level="component")
        kind = runs[0].objective.targets[target]
        if kind.classes:
            constant = learnt.agg(lambda classes: classes.mode().min())  # NaN if there is none
        else:
            constant = learnt.mean()
        mean = constant.reindex(labels.index, level="component")
        columns = {"label": labels, "mean": mean}
        columns |= {seed: frame[column] for seed, frame in frames.items()}
        return pd.DataFrame(columns).astype("float32").dropna(subset="label")

    def adapters(self) -> pd.DataFrame:
        """What the adapters of transfer runs have measured, those that they were given too.

        Returns:
            One row per run and modality: group, seed, modality, ``<split>/<name>`` for all that
            ``msa-adapt`` measures, and ``gradient_norm/<term>`` of the last epoch. Empty without
            adapters; one that a transfer found ready in another run's folder has no row.
        """
        rows = []
        of = self.table[["group", "seed"]].to_dict("records")
        for run, about in zip(self.loaded, of, strict=True):
            given = run.cfg.get("adapters") or {}
            for m in given:
                folder = Path(given[m] or run.dir / "adapters" / m)
                try:
                    rows.append(about | {"modality": m} | _measured(folder))
                except (*USER_ERRORS, OSError, ValueError, IndexError):  # none there, or damaged
                    continue
        return pd.DataFrame(rows)


def collect(pattern: str, splits: Collection[str] = ()) -> Runs:
    """Read the run folders below a folder, or those that a pattern matches.

    Args:
        pattern: A run folder, a folder of run folders at any depth, or a glob of either.
        splits: What a run must have been scored on to count as finished.

    Raises:
        DataNotFoundError: If no finished run is there.
    """
    from msa_lightning.run import run_folders  # imports torch

    rows, loaded, left_out = [], [], {}
    for folder in run_folders(pattern):
        try:
            run, row = _read(folder, splits)
        except Exception as error:  # damage has many kinds; each is listed with its reason
            reason = " ".join(str(error).removeprefix(f"{folder}: ").split())  # one line
            known = isinstance(error, USER_ERRORS)
            left_out[folder] = reason if known else f"damaged ({type(error).__name__}: {reason})"
        else:
            rows.append(row)
            loaded.append(run)
    left_out |= _not_begun(pattern, [*left_out, *(run.dir for run in loaded)])
    if not rows:
        reasons = "".join(f"\n  {folder}: {reason}" for folder, reason in left_out.items())
        raise DataNotFoundError(f"{pattern}: no finished run there{reasons}")

    groups = Groups([_settings(run.dir) for run in loaded], [row["seed"] for row in rows])
    for row, name in zip(rows, groups.names, strict=True):
        row["group"] = name
    order = sorted(range(len(rows)), key=lambda i: (groups.ranks[i], rows[i]["seed"]))
    first: dict[tuple[str, int], int] = {}
    for i in order:
        same = first.setdefault((rows[i]["group"], rows[i]["seed"]), i)
        if same != i:
            left_out[loaded[i].dir] = (
                f"repeats group and seed of {loaded[same].dir}; runs that differ in the seeds of "
                "their base runs alone need seeds of their own"
            )
    kept = list(first.values())
    table = pd.DataFrame([rows[i] for i in kept])
    metrics = [column for column in table if "/" in str(column)]
    columns = ["group", "seed", "modalities", *metrics, "commit", "digest", "synthetic", "run"]
    return Runs(table[columns], [loaded[i] for i in kept], left_out, groups.settings)


def _not_begun(pattern: str, folders: Collection[Path]) -> dict[Path, str]:
    """Jobs of sweeps that failed before they had a folder, among those that a pattern means."""
    missing: dict[Path, str] = {}
    for runs in dict.fromkeys(folder.parent.parent for folder in folders):
        for run, reason in unfinished(runs).items():
            if any(fnmatch(str(path), str(Path(pattern))) for path in (run, *run.parents)):
                missing[run] = " ".join(reason.split())
    return missing


def _read(folder: Path, splits: Collection[str]) -> tuple["LoadedRun", dict[str, Any]]:
    """A run, and its row without the group."""
    from msa_lightning.run import load_run  # imports torch

    run = load_run(folder)
    scores, provenance = run.metrics, run.provenance
    if missing := [split for split in splits if split not in scores]:
        evaluate = f"; msa-evaluate 'run={folder}'" if "test" in missing else ""
        raise DataError(f"not scored on {', '.join(missing)}{evaluate}")
    git = provenance["git"] or {"commit": "", "dirty": False}
    row = {
        "seed": int(run.cfg.seed),
        "modalities": "+".join(run.cfg.modalities),
        "commit": git["commit"] + ("-dirty" if git["dirty"] else ""),
        "digest": provenance["data"]["digest"],
        "synthetic": bool(provenance["data"]["synthetic"]),
        "run": folder.name,
    }
    for split, values in scores.items():
        prefix = "mean_predictor" if split == "test_mean_predictor" else split
        row |= {f"{prefix}/{name}": float(value) for name, value in values.items()}
    return run, row


def _measured(adapter: Path) -> dict[str, float]:
    """What an adapter run has measured, and the gradient norms of its last epoch."""
    from msa_lightning.run import load_run  # imports torch

    run = load_run(adapter)
    found = {f"{split}/{n}": x for split, values in run.metrics.items() for n, x in values.items()}
    if (adapter / "history.csv").is_file():
        last = run.history.iloc[-1]
        found |= {str(c): float(x) for c, x in last.items() if str(c).startswith("gradient_norm/")}
    return found


def _predictions(
    run: "LoadedRun", split: str, target: str, column: str = "prediction"
) -> pd.DataFrame:
    """Label and prediction by id and component."""
    path = run.dir / "predictions.parquet"
    try:
        frame = run.predictions
        frame = frame[(frame["split"] == split) & (frame["target"] == target)]
        frame = frame.set_index(["id", "component"])[["label", column]].sort_index()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); evaluate the run again") from error
    if frame.empty or not frame.index.is_unique:
        fault = "clips stand twice" if len(frame) else "no predictions"
        remedy = "; evaluate the run again" if split in ("train", "valid", "test") else ""
        raise DataError(f"{path}: {fault} for {split}, {target}{remedy}")
    return frame


def _settings(folder: Path) -> Settings:
    """What can change a result, by dotted key; paths are relative, ``${paths.data}/…``."""
    from msa_lightning import config

    return flat(config.settings(config.load(folder / "config.yaml")))
