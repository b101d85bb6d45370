"""Checks of a data file against the facts in its data config, with errors that say what to do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msa_lightning.errors import DataError

_TOLERANCE = 1e-5  # labels are means of ratings in float32


def check_dims(
    path: Path, found: Mapping[str, int], dims: Mapping[str, int], modalities: Sequence[str]
) -> dict[str, int]:
    """Dims of the chosen modalities, as configured and as found.

    Raises:
        DataError: If a modality is absent, or has another number of columns.
    """
    for m in modalities:
        if m not in dims or m not in found:
            where = "data.dims" if m not in dims else path.name
            have = [x for x in dims if x in found]
            raise DataError(
                f"{path.name}: modalities asks for {m}, but {where} has no {m}; "
                f"choose modalities={'_'.join(have)} or another data="
            )
        if found[m] != dims[m]:
            raise DataError(
                f"{path.name}: features/{m} has {found[m]} columns, data.dims.{m} is {dims[m]}; "
                f"set data.dims.{m}={found[m]} if that is meant, or prepare the file again"
            )
    return {m: dims[m] for m in modalities}


def check_targets(
    path: Path,
    ids: NDArray[np.str_],
    found: Mapping[str, NDArray[np.float32]],
    targets: Mapping[str, Mapping[str, Any]],
) -> dict[str, NDArray[np.float32]]:
    """Targets named by the data config, each inside its range, on the scale that is asked for.

    Args:
        path: For messages.
        ids: N clip ids.
        found: Target to (N, K).
        targets: Target to ``range: [low, high]``, in the file; ``optional`` (false by default):
            only an optional target may be NaN, which means unlabelled; and ``scale`` (1 by
            default), by which its values are multiplied: 3 takes SIMS, in [-1, 1], to MOSI's scale.

    Raises:
        DataError: If a target is absent, NaN though required, or out of range.
    """
    for name, facts in targets.items():
        if name not in found:
            raise DataError(
                f"{path.name}: no target '{name}', found {sorted(found)}; "
                f"take data.targets.{name} out with ~data.targets.{name}"
            )
        values = found[name]
        low, high = facts["range"]
        bad = ((values < low - _TOLERANCE) | (values > high + _TOLERANCE)).any(1)
        if not facts.get("optional", False):
            bad |= np.isnan(values).any(1)
        if bad.any():
            first = int(bad.argmax())
            raise DataError(
                f"{path.name}: targets/{name} of clip {ids[first]} is {values[first].tolist()}, "
                f"expected a number in [{low}, {high}] ({int(bad.sum())} clips are wrong); mend "
                f"the labels or, if that is their scale, data.targets.{name}.range"
            )
    return {name: found[name] * np.float32(f.get("scale", 1)) for name, f in targets.items()}


def scaled_range(facts: Mapping[str, Any]) -> list[float]:
    """Low and high of a target after it is multiplied by its ``scale``."""
    return sorted(float(x) * facts.get("scale", 1) for x in facts["range"])


def check_split(path: Path, split: str, count: int, remedy: str) -> None:
    """Raise a DataError if a split is empty."""
    if count == 0:
        raise DataError(f"{path.name}: no clips in split '{split}'; {remedy}")


def check_present(path: Path, modality: str, present: NDArray[np.bool_]) -> None:
    """Raise a DataError if no training clip has a modality."""
    if not present.any():
        raise DataError(f"{path.name}: no train clip has {modality}; choose modalities without it")
