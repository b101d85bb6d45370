"""Alignment distances: closed forms, references, small batches, and what training on them does."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ortho_group
from torch import Tensor
from torch.nn import functional as F

from msa_lightning import config
from msa_lightning.adapters.alignment import (
    MMD,
    MSE,
    Coral,
    Distance,
    Mean,
    SlicedWasserstein,
    build,
)
from msa_lightning.adapters.diagnostics import collapse, r2
from msa_lightning.adapters.network import Adapter
from msa_lightning.adapters.pairings import Paired, Random
from msa_lightning.errors import ConfigError

FILES = sorted((Path(config.CONF) / "alignment").glob("*.yaml"))
TERMS = ["mse", "mean", "coral", "mmd", "sliced_wasserstein", "task"]
UNPAIRED = ["mean", "coral", "mmd", "sliced_wasserstein"]


def distance(name: str, seed: int = 0) -> Distance:
    return build({name: 1.0}, torch.Generator().manual_seed(seed))[name]


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def samples(points: Tensor, size: int) -> list[Tensor]:
    """All samples of that size with replacement, which are equally likely."""
    return [points[list(rows)] for rows in product(range(len(points)), repeat=size)]


# The configuration


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_lists_every_term_and_weighs_its_own(path: Path) -> None:
    weights = OmegaConf.to_container(OmegaConf.load(path))
    assert weights == {name: float(name == path.stem) for name in TERMS}
    assert isinstance(weights, dict)
    built = build(weights, torch.Generator())
    assert list(built) == [name for name in [path.stem] if name != "task"]


def test_a_weighted_sum_builds_what_has_a_weight() -> None:
    assert list(build({"mse": 0.5, "coral": 0, "mmd": 2, "task": 1}, torch.Generator())) == [
        "mse",
        "mmd",
    ]


def test_only_the_squared_error_needs_pairs() -> None:
    built = build(dict.fromkeys(TERMS, 1.0), torch.Generator())
    assert [name for name, d in built.items() if d.paired] == ["mse"]


def test_all_faults_in_the_weights_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        build({"cora": 1, "mse": -1}, torch.Generator())
    assert "alignment.cora: no such term; expected one of mse, mean, coral" in str(error.value)
    assert "alignment.mse: -1 is below 0" in str(error.value)
    with pytest.raises(ConfigError, match="every weight is 0"):
        build(dict.fromkeys(TERMS, 0.0), torch.Generator())


# Every distance


@pytest.mark.parametrize("name", ["mse", *UNPAIRED])
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    adapted, targets = normal(6, 3, 0).double().requires_grad_(), normal(6, 3, 1).double()
    state = torch.Generator().manual_seed(0).get_state()

    def measure(x: Tensor) -> Tensor:
        g = torch.Generator()
        g.set_state(state)
        return build({name: 1.0}, g)[name](x, targets)

    assert torch.autograd.gradcheck(measure, (adapted,))


@pytest.mark.parametrize("name", ["mse", *UNPAIRED])
def test_descent_on_the_vectors_themselves_brings_them_closer(name: str) -> None:
    adapted, targets = normal(16, 3, 0, scale=3, shift=2).requires_grad_(), normal(16, 3, 1)
    measure = distance(name)
    before = measure(adapted, targets).item()
    optimizer = torch.optim.Adam([adapted], 0.05)
    for _ in range(50):
        optimizer.zero_grad()
        measure(adapted, targets).backward()
        optimizer.step()
    assert measure(adapted, targets).item() < 0.5 * before


@pytest.mark.parametrize("name", ["mse", *UNPAIRED])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4])
def test_few_rows_give_a_finite_loss_and_gradient(name: str, rows: int) -> None:
    adapted = normal(rows, 3, 0).requires_grad_()
    targets = normal(rows if name == "mse" else 32, 3, 1)
    loss = distance(name)(adapted, targets)
    loss.backward()
    assert loss.isfinite()
    assert adapted.grad is not None
    assert adapted.grad.isfinite().all()


@pytest.mark.parametrize("name", ["mse", *UNPAIRED])
def test_collapsed_and_coinciding_vectors_give_a_finite_gradient(name: str) -> None:
    targets = normal(8, 3, 1)
    for start in (torch.zeros(8, 3), targets):
        adapted = start.clone().requires_grad_()
        distance(name)(adapted, targets).backward()
        assert adapted.grad is not None
        assert adapted.grad.isfinite().all()


@pytest.mark.parametrize("name", UNPAIRED)
def test_order_of_rows_does_not_matter_without_pairs(name: str) -> None:
    a, t = normal(8, 3, 0), normal(20, 3, 1)
    found = distance(name)(a.flip(0), t.roll(7, 0))
    torch.testing.assert_close(found, distance(name)(a, t))


@pytest.mark.parametrize("name", UNPAIRED[:3])
def test_rotating_both_spaces_does_not_matter(name: str) -> None:
    rotation = torch.as_tensor(ortho_group.rvs(5, random_state=0))
    a, t = normal(8, 5, 0).double(), normal(20, 5, 1, scale=2).double()
    torch.testing.assert_close(distance(name)(a @ rotation, t @ rotation), distance(name)(a, t))


def test_small_batches_are_unbiased() -> None:
    """Averaged over all batches of 4 and of 5 there can be, both are the populations' distances."""
    a, t = normal(3, 2, 0, scale=2, shift=1).double(), normal(2, 2, 1).double()
    means = (a.mean(0) - t.mean(0)).square().sum() / 2
    covariances = (a.T.cov(correction=0) - t.T.cov(correction=0)).square().sum() / (4 * 2**2)
    for measure, expected in ((Mean(), means), (Coral(), covariances)):
        found = [measure(x, y) for x in samples(a, 4) for y in samples(t, 5)]
        torch.testing.assert_close(torch.stack(found).mean(), expected)


# One by one


def test_mse_is_that_of_torch() -> None:
    a, t = normal(6, 3, 0), normal(6, 3, 1)
    torch.testing.assert_close(MSE()(a, t), F.mse_loss(a, t))


def test_mse_skips_rows_without_a_target() -> None:
    a, t = normal(6, 3, 0).requires_grad_(), normal(6, 3, 1)
    t[2], t[4, 1] = torch.nan, torch.nan
    rows = [0, 1, 3, 5]
    loss = MSE()(a, t)
    torch.testing.assert_close(loss, F.mse_loss(a[rows], t[rows]))
    (gradient,) = torch.autograd.grad(loss, a)
    assert not gradient[[2, 4]].any()
    assert gradient[rows].all()
    nothing = MSE()(a, torch.full_like(t, torch.nan))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, a)[0].any()


def test_mean_distance_of_a_shift_is_its_square() -> None:
    a, t = normal(5000, 4, 0, shift=3.0), normal(5000, 4, 1)
    assert Mean()(a, t).item() == pytest.approx(9, rel=0.02)


def test_coral_of_many_vectors_is_that_of_their_sample_covariances() -> None:
    mixing = normal(4, 4, 2)
    a, t = normal(2000, 4, 0) @ mixing, normal(2000, 4, 1, scale=0.5, shift=5)
    apart = np.cov(a.numpy().T) - np.cov(t.numpy().T)
    assert Coral()(a, t).item() == pytest.approx(np.square(apart).sum() / (4 * 4**2), rel=1e-2)


def test_coral_does_not_see_means() -> None:
    a, t = normal(16, 4, 0).double(), normal(30, 4, 1).double()
    torch.testing.assert_close(Coral()(a + 7, t - 3), Coral()(a, t))


def test_mmd_is_that_of_its_definition() -> None:
    a, t = normal(7, 3, 0).double().numpy(), normal(11, 3, 1, shift=1).double().numpy()
    median = np.sort(pdist(t, "sqeuclidean"))[(11 * 10 // 2 - 1) // 2]

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squared = cdist(x, y, "sqeuclidean")
        return np.mean([np.exp(-squared / (f * median)) for f in (0.25, 0.5, 1, 2, 4)], axis=0)

    aa, tt = kernel(a, a)[~np.eye(7, dtype=bool)], kernel(t, t)[~np.eye(11, dtype=bool)]
    expected = aa.mean() + tt.mean() - 2 * kernel(a, t).mean()
    assert MMD()(torch.as_tensor(a), torch.as_tensor(t)).item() == pytest.approx(expected)


def test_mmd_does_not_depend_on_the_unit_of_measurement() -> None:
    a, t = normal(16, 4, 0).double(), normal(30, 4, 1, scale=2).double()
    torch.testing.assert_close(MMD()(1000 * a, 1000 * t), MMD()(a, t))


def test_mmd_of_equal_targets_is_finite() -> None:
    assert MMD()(normal(8, 3, 0), torch.zeros(8, 3)).isfinite()


def test_sliced_wasserstein_in_one_dimension_compares_sorted_values() -> None:
    a, t = normal(12, 1, 0), normal(12, 1, 1, scale=2)
    expected = (a.sort(0).values - t.sort(0).values).square().mean()
    torch.testing.assert_close(distance("sliced_wasserstein")(a, t), expected)


def test_sliced_wasserstein_is_exact_for_a_multiple_of_targets() -> None:
    a, t = normal(4, 1, 0), normal(12, 1, 1, scale=2)
    found = distance("sliced_wasserstein")(a, t)
    torch.testing.assert_close(found, distance("sliced_wasserstein")(a.repeat(3, 1), t))


@pytest.mark.parametrize(("b", "r"), [(7, 20), (15, 8), (9, 100)])
def test_sliced_wasserstein_of_other_sizes_is_nearly_exact(b: int, r: int) -> None:
    a, t = normal(b, 1, 0, shift=3), normal(r, 1, 1)
    grid = (np.arange(10_000) + 0.5) / 10_000
    steps = [np.sort(x.numpy()[:, 0])[(grid * len(x)).astype(int)] for x in (a, t)]
    exact = np.square(steps[0] - steps[1]).mean()
    found = distance("sliced_wasserstein")(a, t)
    assert found.item() == pytest.approx(exact, rel=0.05)
    torch.testing.assert_close(distance("sliced_wasserstein")(-a, -t), found)


def test_sliced_wasserstein_of_a_shift_is_the_mean_squared_error() -> None:
    measure, t = distance("sliced_wasserstein"), normal(20, 5, 0)
    shift = normal(1, 5, 1)
    found = torch.stack([measure(t + shift, t) for _ in range(200)]).mean()
    torch.testing.assert_close(found, MSE()(t + shift, t), rtol=0.05, atol=0)


def test_directions_are_new_in_each_call_and_reproducible() -> None:
    a, t = normal(8, 5, 0), normal(8, 5, 1)
    first, second = (distance("sliced_wasserstein") for _ in range(2))
    assert isinstance(first, SlicedWasserstein)
    values = [first(a, t) for _ in range(3)]
    assert values == [second(a, t) for _ in range(3)]
    assert len({v.item() for v in values}) == 3


# Training


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Source vectors (600, 6), their linear images (600, 4), and other targets (500, 4)."""
    mixing = normal(6, 4, 2) / 6**0.5
    source = normal(600, 6, 0)
    return source, source @ mixing + 1, normal(500, 6, 1) @ mixing + 1


def train(
    source: Tensor, targets: Tensor, terms: dict[str, float], pairs: Tensor | None
) -> tuple[Tensor, Adapter]:
    """Adapted vectors after 300 steps; targets are random without pairs."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    pairing = (Random if pairs is None else Paired)(
        targets=targets, target_labels=None, source_labels=None, pairs=pairs, generator=generator
    )
    distances = build(terms, generator)
    net = Adapter(source=6, target=4, hidden=[32], dropout=0.0)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    present = torch.ones(64, dtype=torch.bool)
    for _ in range(300):
        indices = torch.randint(len(source), (64,), generator=generator)
        adapted = net(source[indices], present)
        own = pairing(indices, adapted)
        some = targets[torch.randperm(len(targets), generator=generator)[:128]]
        loss = torch.stack(
            [terms[name] * d(adapted, own if d.paired else some) for name, d in distances.items()]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return net.eval()(source, torch.ones(len(source), dtype=torch.bool)), net


def test_random_pairs_make_the_adapter_the_constant_mean(
    problem: tuple[Tensor, Tensor, Tensor],
) -> None:
    source, _, targets = problem
    adapted, _ = train(source, targets, {"mse": 1.0}, None)
    assert collapse(adapted, targets)["q75"] < 0.05
    torch.testing.assert_close(adapted.mean(0), targets.mean(0), atol=0.15, rtol=0)


def test_pairs_recover_a_linear_map_although_some_are_missing(
    problem: tuple[Tensor, Tensor, Tensor],
) -> None:
    source, images, targets = problem
    pairs = images.clone()
    pairs[::3] = torch.nan
    adapted, _ = train(source, targets, {"mse": 1.0}, pairs)
    assert collapse(adapted, images)["q25"] > 0.9
    assert r2(adapted[::3], images[::3]) > 0.95


@pytest.mark.parametrize(
    "terms", [{"coral": 1.0, "mean": 0.1}, {"mmd": 1.0}, {"sliced_wasserstein": 1.0}], ids=str
)
def test_matching_distributions_does_not_collapse(
    problem: tuple[Tensor, Tensor, Tensor], terms: dict[str, float]
) -> None:
    source, _, targets = problem
    adapted, _ = train(source, targets, terms, None)
    spread = collapse(adapted, targets)
    assert 0.6 < spread["q25"] < spread["q75"] < 1.4
    torch.testing.assert_close(adapted.mean(0), targets.mean(0), atol=0.25, rtol=0)
