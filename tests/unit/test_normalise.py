"""Normalisers against scikit-learn, with values that were never measured, in blocks or whole."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.preprocessing import RobustScaler, StandardScaler

import msa_lightning.normalise
from msa_lightning.normalise import Normaliser

FloatArray = NDArray[np.float32]
METHODS: tuple[Literal["standard"], Literal["robust"]] = ("standard", "robust")


def table(n: int = 500, seed: int = 0, nan: float = 0.1) -> FloatArray:
    """Skewed columns of very different size, offset, and share of NaN."""
    rng = np.random.default_rng(seed)
    x = np.exp(rng.normal(size=(n, 4))) * [1, 1e-4, 1e4, 1] + [0, 0, 1e5, -30]
    x[rng.random((n, 4)) < nan] = np.nan
    return x.astype(np.float32)


def blocks(x: FloatArray, *bounds: int) -> list[FloatArray]:
    return np.split(x, bounds)


def fit(method: Literal["standard", "robust", "none"], *rows: FloatArray) -> Normaliser:
    return Normaliser.fit(method, {"audio": iter(rows)})


@pytest.mark.parametrize("nan", [0.0, 0.1])
@pytest.mark.parametrize("method", METHODS)
def test_scaling_is_that_of_scikit_learn(method: Literal["standard", "robust"], nan: float) -> None:
    x = table(nan=nan)
    scaler = StandardScaler() if method == "standard" else RobustScaler(unit_variance=True)
    expected = scaler.fit_transform(x.astype(np.float64))
    found = fit(method, x)("audio", x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.nan_to_num(expected), rtol=1e-3, atol=1e-3)
    assert (found[np.isnan(x)] == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_blocks_give_what_the_whole_gives(method: Literal["standard", "robust"]) -> None:
    x = table()
    x[:100, 1] = np.nan  # not measured in the first blocks
    whole, parts = fit(method, x), fit(method, *blocks(x, 0, 1, 7, 7, 90, 499))
    for kind in ("centre", "scale"):
        found, expected = getattr(parts, kind)["audio"], getattr(whole, kind)["audio"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_large_offset_keeps_its_digits() -> None:
    x = (1e5 + np.random.default_rng(0).normal(size=(4000, 1))).astype(np.float32)
    fitted = fit("standard", *blocks(x, 1000, 2000))
    np.testing.assert_allclose(fitted.scale["audio"], x.astype(np.float64).std(0), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [0.0, 0.1, -3e4])
def test_constant_column_is_only_shifted(
    method: Literal["standard", "robust"], constant: float
) -> None:
    x = np.full((300, 2), constant, np.float32)
    x[:, 1] = np.arange(300)
    fitted = fit(method, *blocks(x, 100))
    assert fitted.scale["audio"][0] == 1
    assert fitted.centre["audio"][0] == np.float32(constant)
    np.testing.assert_allclose(fitted("audio", x)[:, 0], 0, atol=1e-6)
    assert fitted("audio", x + 2)[0, 0] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_column_that_varies_by_rounding_only_is_constant(
    method: Literal["standard", "robust"],
) -> None:
    x = np.full((300, 1), 0.1, np.float32)
    x[::2] = np.nextafter(x[0, 0], np.float32(1))
    assert np.abs(fit(method, x)("audio", x)).max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_column_that_was_never_measured_becomes_zero(
    method: Literal["standard", "robust"],
) -> None:
    x = table()
    x[:, 2] = np.nan
    fitted = fit(method, *blocks(x, 100))
    assert np.isfinite(fitted.centre["audio"]).all()
    assert np.isfinite(fitted.scale["audio"]).all()
    assert not fitted("audio", x)[:, 2].any()
    expected = fit(method, x[:, [0, 1, 3]])
    np.testing.assert_allclose(fitted.scale["audio"][[0, 1, 3]], expected.scale["audio"], rtol=1e-6)


def test_none_leaves_values_and_clears_nan() -> None:
    x = table()
    assert np.array_equal(fit("none", *blocks(x, 100))("audio", x), np.nan_to_num(x))


def test_input_is_left_as_it_was() -> None:
    x = table()
    before = x.copy()
    fit("standard", x)("audio", x)
    assert np.array_equal(x, before, equal_nan=True)


def test_sequences_are_scaled_per_column() -> None:
    x = table(nan=0)
    fitted = fit("standard", x)
    sequences = x.reshape(50, 10, 4)
    found = fitted("audio", sequences)
    assert np.array_equal(found, fitted("audio", x).reshape(50, 10, 4))


@pytest.mark.parametrize("sizes", [(1,), (64, 1, 300), (999, 1001)])
def test_long_input_is_thinned_to_evenly_spaced_rows(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    monkeypatch.setattr(msa_lightning.normalise, "_ROBUST_ROWS", 100)
    n = 5000
    x = table(n, nan=0)
    bounds = np.cumsum(np.resize(sizes, n))
    thinned = fit("robust", *blocks(x, *bounds[bounds < n]))
    expected = fit("robust", x[::64])  # the first power of two that leaves at most 100 rows
    for kind in ("centre", "scale"):
        assert np.array_equal(getattr(thinned, kind)["audio"], getattr(expected, kind)["audio"])


def test_modalities_do_not_mix() -> None:
    a, b = table(seed=1), table(seed=2)[:, :3]
    both = Normaliser.fit("standard", {"text": [a], "audio": [b]})
    assert np.array_equal(both("text", a), fit("standard", a)("audio", a))
    assert np.array_equal(both("audio", b), fit("standard", b)("audio", b))


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    x = table()
    fitted = Normaliser.fit("standard", {"visual": [x], "text": [x[:, :2]]})
    fitted.save(tmp_path / "normaliser.npz")
    loaded = Normaliser.load(tmp_path / "normaliser.npz")
    assert list(loaded.centre) == ["visual", "text"]
    assert np.array_equal(loaded("visual", x), fitted("visual", x))
    assert np.array_equal(loaded("text", x[:, :2]), fitted("text", x[:, :2]))
    assert [path.name for path in tmp_path.iterdir()] == ["normaliser.npz"]
