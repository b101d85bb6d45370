"""What the adapters of transfer runs have measured, as a table."""

import numpy as np
import pandas as pd


def summarise(measured: pd.DataFrame) -> pd.DataFrame:
    """What adapters measured, averaged over seeds.

    How many clips taught them, targets and parameters there were; what they do to their space, on
    validation clips where there are some; the gradient norm of each term in the last epoch.

    Args:
        measured: From ``Runs.adapters``.

    Returns:
        One row per group and modality, as text: columns group, modality, and those that any adapter
        has a value in. Empty without adapters.
    """
    if measured.empty:
        return measured
    split = "valid/" if any(str(c).startswith("valid/") for c in measured) else "train/"
    counts = ["train/taught", "train/targets", "train/parameters"]
    found = [str(c) for c in measured if str(c).startswith((split, "gradient_norm/"))]
    chosen = counts + [c for c in found if not c.endswith(("_q25", "_q75", "/clips"))]
    keys = ["group", "modality"]
    wide = measured.reindex(columns=[*keys, *dict.fromkeys(chosen)])
    means = wide.groupby(keys, sort=False).mean().dropna(axis=1, how="all")
    names = {c: str(c).removeprefix("train/").removeprefix(split) for c in means}
    return means.map(_number).rename(columns=names).reset_index()


def _number(value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3f}"
