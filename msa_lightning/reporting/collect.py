"""Run folders → one table, one row per run; the unusable ones are listed with their reason."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from msa_lightning import MODALITIES
from msa_lightning.errors import USER_ERRORS, DataError, DataNotFoundError

if TYPE_CHECKING:
    from msa_lightning.objective import PairFunction
    from msa_lightning.run import LoadedRun

_SEED_AND_HASH = re.compile(r"-seed\d+-[0-9a-f]{8}")

Settings = dict[str, Any]


@dataclass(frozen=True)
class Runs:
    """Finished runs, ready to compare.

    Attributes:
        table: One row per run with columns group, seed, ``<split>/<metric>`` for every stored
            metric (the mean predictor's as ``mean_predictor/<metric>``; NaN where undefined),
            commit, digest (of the data), synthetic and run (the folder's name).
        loaded: The runs, in the order of the rows.
        left_out: Folder to the reason why it is not in the table.
    """

    table: pd.DataFrame
    loaded: list["LoadedRun"]
    left_out: dict[Path, str]

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

    def predictions(self, group: str, split: str, target: str) -> pd.DataFrame:
        """Labelled values and their predictions, aligned by clip.

        Returns:
            Rows by id and component, sorted; float32 columns ``label``, ``mean`` (what the mean
            predictor says: the mean label of the first run's training clips, NaN for classes) and,
            by its number, each seed's prediction.

        Raises:
            DataError: If a file is damaged, or the runs differ in their clips or labels.
        """
        runs = self.of(group)
        frames = {run.cfg.seed: _predictions(run, split, target) for run in runs}
        labels = frames[runs[0].cfg.seed]["label"]
        for run, frame in zip(runs, frames.values(), strict=True):
            if not frame["label"].equals(labels):
                raise DataError(f"{run.dir}: other {split} clips or labels than {runs[0].dir}")
        learnt = _predictions(runs[0], "train", target)["label"].groupby(level="component").mean()
        mean = learnt.reindex(labels.index, level="component")
        if runs[0].objective.targets[target].decode:
            mean[:] = float("nan")
        columns = {"label": labels, "mean": mean}
        columns |= {seed: frame["prediction"] for seed, frame in frames.items()}
        return pd.DataFrame(columns).astype("float32").dropna(subset="label")


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
    if not rows:
        reasons = "".join(f"\n  {folder}: {reason}" for folder, reason in left_out.items())
        raise DataNotFoundError(f"{pattern}: no finished run there{reasons}")

    settings = [_settings(run.dir) for run in loaded]
    keys = _differing(settings, [row["seed"] for row in rows])
    for row, setting in zip(rows, settings, strict=True):
        row["group"] = _name(setting, keys)
    order = sorted(
        range(len(rows)),
        key=lambda i: ([_rank(settings[i].get(key)) for key in keys], rows[i]["seed"]),
    )
    first: dict[tuple[str, int], int] = {}
    for i in order:
        same = first.setdefault((rows[i]["group"], rows[i]["seed"]), i)
        if same != i:
            left_out[loaded[i].dir] = f"repeats group and seed of {loaded[same].dir}"
    kept = list(first.values())
    table = pd.DataFrame([rows[i] for i in kept])
    metrics = [column for column in table if "/" in str(column)]
    columns = ["group", "seed", *metrics, "commit", "digest", "synthetic", "run"]
    return Runs(table[columns], [loaded[i] for i in kept], left_out)


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
        "commit": git["commit"] + ("-dirty" if git["dirty"] else ""),
        "digest": provenance["data"]["digest"],
        "synthetic": bool(provenance["data"]["synthetic"]),
        "run": folder.name,
    }
    for split, values in scores.items():
        prefix = "mean_predictor" if split == "test_mean_predictor" else split
        row |= {f"{prefix}/{name}": float(value) for name, value in values.items()}
    return run, row


def _predictions(run: "LoadedRun", split: str, target: str) -> pd.DataFrame:
    """Label and prediction by id and component."""
    path = run.dir / "predictions.parquet"
    try:
        frame = run.predictions
        frame = frame[(frame["split"] == split) & (frame["target"] == target)]
        frame = frame.set_index(["id", "component"])[["label", "prediction"]].sort_index()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); evaluate the run again") from error
    if frame.empty or not frame.index.is_unique:
        fault = "clips stand twice" if len(frame) else "no predictions"
        raise DataError(f"{path}: {fault} for {split}, {target}; evaluate the run again")
    return frame


def _settings(folder: Path) -> Settings:
    """What can change a result, by dotted key; paths are relative, ``${paths.data}/…``."""
    from msa_lightning import config

    settings = config.settings(config.load(folder / "config.yaml"))
    return {  # another run stands for its group
        key: _SEED_AND_HASH.sub("", value) if isinstance(value, str) else value
        for key, value in _leaves(settings, "")
    }


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    nested = isinstance(node, list) and any(isinstance(child, dict | list) for child in node)
    if isinstance(node, dict) or nested:
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, tuple(node) if isinstance(node, list) else node


def _differing(settings: Sequence[Settings], seeds: list[int]) -> list[str]:
    """Keys that tell the runs apart, beside the seed, each fact once."""
    every = {key: [s.get(key) for s in settings] for s in settings for key in s}
    differing = {
        key: values
        for key, values in every.items()
        if len(set(values)) > 1 and not (key.endswith("seed") and values == seeds)
    }
    chosen: dict[str, list[Any]] = {}
    for key in sorted(differing, key=lambda key: (key.count("."), key)):
        values, last = differing[key], key.rsplit(".", 1)[-1]
        copied = any(values == v and last == k.rsplit(".", 1)[-1] for k, v in chosen.items())
        if not copied and not _implied(key, differing):
            chosen[key] = values
    return list(chosen)


def _implied(key: str, differing: dict[str, list[Any]]) -> bool:
    """Whether a value merely follows from the class that a node above it names."""
    parts = key.split(".")
    for i in range(1, len(parts)):
        target = ".".join([*parts[:i], "_target_"])
        if target != key and target in differing:
            pairs = set(zip(differing[target], differing[key], strict=True))
            if len(pairs) == len(set(differing[target])):
                return True
    return False


def _name(setting: Settings, keys: list[str]) -> str:
    parts = []
    for key in keys or ["modalities"]:
        value = setting.get(key)
        words = value if isinstance(value, tuple) else ["none" if value is None else value]
        text = "+".join(map(str, words))
        if key.endswith("_target_"):
            key, text = key.removesuffix("._target_"), text.rsplit(".", 1)[-1]
        parts.append(text if key == "modalities" else f"{key}={text}")
    return ", ".join(parts)


def _rank(value: Any) -> tuple[int, Any]:
    """Sort numbers by size, modalities by how many and which, the rest by name."""
    if isinstance(value, int | float):
        return 0, value
    if isinstance(value, tuple) and set(value) <= set(MODALITIES):
        return 1, (len(value), [MODALITIES.index(m) for m in value])
    return 2, str(value)
