"""Feature scaling, fitted on the training clips and stored with the run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from msa_lightning.errors import DataNotFoundError

FloatArray = NDArray[np.float32]
Method = Literal["standard", "robust", "none"]
_ROBUST_ROWS = 100_000  # quantiles of longer sequences come from this many evenly spaced rows


class Normaliser:
    """Per-column shift and scale for each modality: (x - centre) / scale.

    A value that was never measured (NaN) becomes the centre, 0 after scaling. A column that is
    constant over the training clips is only shifted.

    Args:
        centre: Per modality (D,).
        scale: Per modality (D,), without zeros.
    """

    def __init__(self, centre: Mapping[str, FloatArray], scale: Mapping[str, FloatArray]) -> None:
        self.centre, self.scale = dict(centre), dict(scale)

    @classmethod
    def fit(cls, method: Method, rows: Mapping[str, Iterable[FloatArray]]) -> Self:
        """Fit on real rows only: the steps of training clips whose modality is present.

        Args:
            method: ``standard``: mean and standard deviation; ``robust``: median and
                interquartile range / 1.349 (equal to the standard deviation of a Gaussian);
                ``none``: values as they are.
            rows: Per modality blocks of (n, D), NaN where a value was never measured.
        """
        fits = {"standard": _standard, "robust": _robust, "none": _none}
        fitted = {m: fits[method](blocks) for m, blocks in rows.items()}
        return cls({m: c for m, (c, _) in fitted.items()}, {m: s for m, (_, s) in fitted.items()})

    def __call__(self, modality: str, values: FloatArray) -> FloatArray:
        """Scale (…, D) values of one modality; NaN becomes 0."""
        scaled = values - self.centre[modality]
        scaled /= self.scale[modality]
        scaled[np.isnan(scaled)] = 0
        return scaled

    def save(self, path: Path) -> None:
        """Write ``normaliser.npz``, whole or not at all."""
        temporary = path.with_name(f".{path.stem}.tmp.npz")
        arrays: dict[str, Any] = {f"{m}.centre": x for m, x in self.centre.items()}
        arrays |= {f"{m}.scale": x for m, x in self.scale.items()}
        np.savez(temporary, **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            DataNotFoundError: If there is no such file.
        """
        if not path.is_file():
            raise DataNotFoundError(f"{path}: not found; train the run again")
        with np.load(path) as arrays:
            kinds = {
                kind: {n.removesuffix(f".{kind}"): arrays[n] for n in arrays if n.endswith(kind)}
                for kind in ("centre", "scale")
            }
        return cls(**kinds)


def _standard(blocks: Iterable[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Mean and population standard deviation, in one pass over blocks (Chan et al., 1983)."""
    n = mean = squares = np.zeros(1)
    for block in blocks:
        values = block.astype(np.float64)
        here = ~np.isnan(values)
        count = here.sum(0)
        block_mean = np.where(here, values, 0).sum(0) / np.maximum(count, 1)
        block_squares = np.square(np.where(here, values - block_mean, 0)).sum(0)
        total = np.maximum(n + count, 1)
        delta = block_mean - mean
        squares = squares + block_squares + delta**2 * n * count / total
        mean = mean + delta * count / total
        n = n + count
    return _safe(mean, np.sqrt(squares / np.maximum(n, 1)))


def _robust(blocks: Iterable[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Median and interquartile range / 1.349 of at most _ROBUST_ROWS evenly spaced rows."""
    kept: list[FloatArray] = []
    stride, seen = 1, 0
    for block in blocks:
        kept.append(block[-seen % stride :: stride])
        seen += len(block)
        while seen // stride > _ROBUST_ROWS:
            kept, stride = [np.concatenate(kept)[::2]], 2 * stride
    values = np.concatenate(kept).astype(np.float64)
    values[:, np.isnan(values).all(0)] = 0  # a column that was never measured
    low, median, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)
    return _safe(median, (high - low) / 1.349)


def _none(blocks: Iterable[FloatArray]) -> tuple[FloatArray, FloatArray]:
    size = next(iter(blocks)).shape[1]
    return np.zeros(size, np.float32), np.ones(size, np.float32)


def _safe(centre: NDArray[np.float64], scale: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    """In float32, with scale 1 for a column that varies by rounding only."""
    constant = scale <= 10 * np.finfo(np.float32).eps * np.abs(centre)
    return centre.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32)
