"""Small files, of a run folder above all: read them, and write them whole or not at all."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf


def store_predictions(run: Path, split: str, predictions: pd.DataFrame) -> None:
    """Put one split's rows into ``predictions.parquet``, in place of older ones."""
    path = run / "predictions.parquet"
    if path.exists():
        old = pd.read_parquet(path)
        predictions = pd.concat([old[old["split"] != split], predictions], ignore_index=True)
    temporary = path.with_name(f".{path.name}.tmp")
    predictions.to_parquet(temporary, index=False)
    temporary.replace(path)


def read_metrics(run: Path) -> dict[str, dict[str, float]]:
    """Metrics by split, NaN where undefined; empty if there are none yet."""
    path = run / "metrics.json"
    if not path.exists():
        return {}
    return {
        split: {k: math.nan if v is None else v for k, v in values.items()}
        for split, values in json.loads(path.read_text()).items()
    }


def show(value: float) -> str:
    """A metric for people: four decimals, or that it is undefined."""
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def read_provenance(run: Path) -> dict[str, Any]:
    """Content of ``provenance.json``; empty if there is none yet."""
    path = run / "provenance.json"
    provenance: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return provenance


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON; NaN, which JSON does not have, becomes null."""
    write(path, json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n")


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    if isinstance(content, DictConfig):
        return OmegaConf.to_container(content)
    return None if isinstance(content, float) and not math.isfinite(content) else content


def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the code, if it is a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None  # installed inside somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
