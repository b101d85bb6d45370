"""Losses against numpy; the correlation also where it does not exist."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msa_lightning.losses import mse_mae, squared_correlation_distance


def random_pair(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.randn(n, k, generator=g)
    return (target + torch.randn(n, k, generator=g)).requires_grad_(), target


def correlation(prediction: Tensor, target: Tensor) -> float:
    return float(np.corrcoef(prediction.detach().numpy().T, target.numpy().T)[0, 1])


def test_absolute_part_is_the_mean_of_mse_and_mae() -> None:
    prediction, target = random_pair(20, 3)
    error = (prediction - target).detach().numpy()
    expected = (np.square(error).mean() + np.abs(error).mean()) / 2
    assert mse_mae(prediction, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 32, 500])
def test_correlation_part_is_that_of_numpy(n: int) -> None:
    prediction, target = random_pair(n, 1, seed=n)
    found = squared_correlation_distance(prediction, target).item()
    assert found == pytest.approx((1 - correlation(prediction, target)) ** 2, rel=1e-4, abs=1e-6)


def test_correlation_part_averages_over_outputs() -> None:
    prediction, target = random_pair(40, 4)
    each = [
        (1 - correlation(p[:, None], t[:, None])) ** 2
        for p, t in zip(prediction.T, target.T, strict=True)
    ]
    found = squared_correlation_distance(prediction, target)
    assert found.shape == ()
    assert found.item() == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize(("scale", "expected"), [(2.0, 0.0), (-0.5, 4.0)])
def test_correlation_part_knows_neither_scale_nor_shift(scale: float, expected: float) -> None:
    _, target = random_pair(20, 1)
    found = squared_correlation_distance(scale * target + 3, target)
    assert found.item() == pytest.approx(expected, abs=1e-5)


LABELS = torch.tensor([[-1.2], [0.4], [2.0], [0.0]])
NEARLY_CONSTANT = 1000 + 1e-4 * LABELS  # the difference is float32's rounding


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        (torch.tensor([[0.3]]), torch.tensor([[1.0]])),
        (torch.full((4, 1), 0.1), LABELS),
        (torch.zeros(4, 1), LABELS),
        (LABELS, torch.full((4, 1), 0.1)),
        (LABELS, torch.zeros(4, 1)),
        (torch.ones(4, 1), torch.ones(4, 1)),
        (NEARLY_CONSTANT, LABELS),
        (LABELS, NEARLY_CONSTANT),
    ],
    ids=["one clip", "flat", "zero", "flat target", "zero target", "both", "near", "near target"],
)
def test_undefined_correlation_counts_as_zero(prediction: Tensor, target: Tensor) -> None:
    prediction = prediction.clone().requires_grad_()
    loss = squared_correlation_distance(prediction, target)
    loss.backward()
    assert loss.item() == 1
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_undefined_output_does_not_touch_the_others() -> None:
    prediction, target = random_pair(10, 2)
    target[:, 0] = 1.5
    loss = squared_correlation_distance(prediction, target)
    loss.backward()
    r = correlation(prediction[:, 1:], target[:, 1:])
    assert loss.item() == pytest.approx((1 + (1 - r) ** 2) / 2, rel=1e-5)
    assert prediction.grad is not None
    assert not prediction.grad[:, 0].any()
    assert prediction.grad[:, 1].all()


def test_small_variation_still_counts() -> None:
    prediction = (5 + 1e-3 * LABELS).requires_grad_()
    loss = squared_correlation_distance(prediction, LABELS)
    assert loss.item() == pytest.approx(0, abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8),
    scale=st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e12]),
    offset=st.sampled_from([0.0, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 5),
)
def test_loss_and_gradient_are_always_finite(
    values: list[float], scale: float, offset: float, seed: int
) -> None:
    prediction = (offset + scale * torch.tensor(values)[:, None]).requires_grad_()
    target = torch.randn(len(values), 1, generator=torch.Generator().manual_seed(seed))
    loss = squared_correlation_distance(prediction, target)
    loss.backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert -1e-5 <= loss.item() <= 4 + 1e-4


@pytest.mark.parametrize("loss", [mse_mae, squared_correlation_distance])
def test_gradient_is_that_of_finite_differences(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    prediction, target = random_pair(6, 2)
    prediction, target = prediction.detach().double().requires_grad_(), target.double()
    assert torch.autograd.gradcheck(loss, (prediction, target))
