"""Pairings: where a clip's target comes from, how fairly, and what is missing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from sklearn.cluster import KMeans
from torch import Tensor

from msa_lightning import config
from msa_lightning.adapters.pairings import Centroid, LabelMatched
from msa_lightning.errors import ConfigError

NAMES = ("random", "centroid", "label_matched", "paired")
COMMON = {"targets", "target_labels", "source_labels", "pairs", "generator"}

Pairing = Callable[[Tensor, Tensor], Tensor]


def build(name: str, seed: int = 0, **given: Any) -> Pairing:
    """The pairing of ``conf/pairing/<name>.yaml`` of 12 source clips and 40 targets (40, 3)."""
    g = torch.Generator().manual_seed(99)
    arguments: dict[str, Any] = {
        "targets": torch.randn(40, 3, generator=g),
        "target_labels": torch.rand(40, 1, generator=g),
        "source_labels": torch.rand(12, 1, generator=g),
        "pairs": torch.randn(12, 3, generator=g),
        "generator": torch.Generator().manual_seed(seed),
    }
    node = OmegaConf.load(f"{config.CONF}/pairing/{name}.yaml")
    pairing: Pairing = config.instantiate(node, **arguments | given)
    return pairing


def numbered(n: int) -> Tensor:
    """Targets that say which they are."""
    return torch.arange(float(n))[:, None]


def shares(pairing: Pairing, clip: int, size: int, *, calls: int = 200) -> Tensor:
    """How often each of the numbered targets is drawn for a clip, in batches of 50."""
    indices, adapted = torch.full((50,), clip), torch.zeros(50, 1)
    drawn = torch.cat([pairing(indices, adapted) for _ in range(calls)])
    return drawn.flatten().long().bincount(minlength=size) / len(drawn)


@pytest.mark.parametrize("name", NAMES)
def test_config_fits_the_code(name: str) -> None:
    cfg = OmegaConf.create({"pairing": OmegaConf.load(f"{config.CONF}/pairing/{name}.yaml")})
    config.validate(cfg, {"pairing": COMMON})


@pytest.mark.parametrize("name", NAMES)
def test_targets_have_the_shape_and_type_of_the_adapted_and_no_gradient(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        adapted = torch.randn(5, 3, dtype=dtype, requires_grad=True)
        found = build(name)(torch.arange(5), adapted)
        assert (found.shape, found.dtype, found.requires_grad) == ((5, 3), dtype, False)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_targets(name: str) -> None:
    indices, adapted = torch.arange(12), torch.randn(12, 3)

    def three(seed: int) -> Tensor:
        pairing = build(name, seed)
        return torch.stack([pairing(indices, adapted) for _ in range(3)])

    assert torch.equal(three(0), three(0))
    if name in ("random", "label_matched"):
        assert not torch.equal(three(0), three(1))


@pytest.mark.parametrize("name", NAMES)
def test_global_random_state_is_left_alone(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build(name)(torch.arange(5), torch.zeros(5, 3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_has_no_targets(name: str) -> None:
    assert build(name)(torch.arange(0), torch.zeros(0, 3)).shape == (0, 3)


def test_random_draws_every_target_equally_often_for_every_clip() -> None:
    pairing = build("random", targets=numbered(8))
    for clip in (0, 11):
        torch.testing.assert_close(
            shares(pairing, clip, 8), torch.full((8,), 1 / 8), atol=0.02, rtol=0
        )


def test_random_draws_anew_in_each_batch() -> None:
    pairing = build("random")
    first, second = (pairing(torch.arange(12), torch.zeros(12, 3)) for _ in range(2))
    assert not torch.equal(first, second)


def test_centroids_are_those_of_scikit_learn() -> None:
    middles = 20 * torch.eye(10)
    points = middles.repeat(30, 1) + torch.randn(300, 10)
    reference = KMeans(10, n_init=10, random_state=0).fit(points.numpy())
    best = min(
        (build("centroid", seed, targets=points)(torch.arange(10), middles) for seed in range(5)),
        key=lambda found: float((found - middles).norm()),
    )
    expected = torch.as_tensor(reference.cluster_centers_[reference.predict(middles.numpy())])
    torch.testing.assert_close(best, expected)


def test_centroid_is_the_one_nearest_to_the_vector_as_it_is_now() -> None:
    targets = torch.tensor([[0.0, 0.0], [0.0, 0.2], [5.0, 5.0], [5.0, 5.2]])
    pairing = build("centroid", targets=targets, centroids=2)
    near_first, near_second = torch.tensor([[2.0, 2.0]]), torch.tensor([[3.0, 3.0]])
    torch.testing.assert_close(pairing(torch.tensor([0]), near_first), torch.tensor([[0.0, 0.1]]))
    torch.testing.assert_close(pairing(torch.tensor([0]), near_second), torch.tensor([[5.0, 5.1]]))


def test_more_centroids_than_different_targets_are_refused() -> None:
    targets = torch.ones(40, 3)
    targets[:4] = torch.randn(4, 3)
    with pytest.raises(ConfigError, match=r"pairing\.centroids is 10.*5 different target vectors"):
        build("centroid", targets=targets)


def test_as_many_centroids_as_different_targets_are_these() -> None:
    targets = torch.arange(10.0)[:, None].repeat(4, 1)
    found = build("centroid", targets=targets)
    assert isinstance(found, Centroid)
    torch.testing.assert_close(found.centroids.sort(0).values, targets[:10])


def test_label_matched_draws_among_the_nearest_labels_only() -> None:
    labels = torch.linspace(-3, 3, 60)[:, None]
    pairing = build(
        "label_matched",
        targets=numbered(60),
        target_labels=labels,
        source_labels=torch.tensor([[-3.0], [0.32]]),
        neighbours=4,
    )
    for clip, label in enumerate((-3.0, 0.32)):
        nearest = (labels[:, 0] - label).abs().argsort()[:4]
        expected = torch.zeros(60).index_fill(0, nearest, 1 / 4)
        torch.testing.assert_close(shares(pairing, clip, 60), expected, atol=0.02, rtol=0)


def test_equal_labels_share_the_last_places_fairly() -> None:
    """3 targets at distance 0 and 7 at distance 1 (on both sides) compete for 5 places."""
    labels = torch.tensor([0.0] * 3 + [1.0] * 4 + [-1.0] * 3 + [2.0] * 10)[:, None]
    pairing = build(
        "label_matched",
        targets=numbered(20),
        target_labels=labels,
        source_labels=torch.zeros(1, 1),
        neighbours=5,
    )
    expected = torch.tensor([1 / 5] * 3 + [2 / 35] * 7 + [0.0] * 10)
    torch.testing.assert_close(shares(pairing, 0, 20), expected, atol=0.015, rtol=0)


def test_a_tie_is_not_broken_by_rounding() -> None:
    """Around 0.7, 0.4 and 1.0 are equally far, but not in float32."""
    labels = torch.tensor([[0.4], [1.0]])
    assert (labels[0] - 0.7).abs() != (labels[1] - 0.7).abs()
    pairing = build(
        "label_matched",
        targets=numbered(2),
        target_labels=labels,
        source_labels=torch.tensor([[0.7]]),
        neighbours=1,
    )
    torch.testing.assert_close(shares(pairing, 0, 2), torch.full((2,), 0.5), atol=0.02, rtol=0)


def test_several_labels_are_compared_together() -> None:
    labels = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    pairing = build(
        "label_matched",
        targets=numbered(4),
        target_labels=labels,
        source_labels=labels.flip(0) + 0.1,
        neighbours=1,
    )
    found = pairing(torch.arange(4), torch.zeros(4, 1))
    assert found.flatten().tolist() == [3, 2, 1, 0]


def test_label_matched_does_not_look_at_the_adapted_vectors() -> None:
    indices = torch.arange(12)
    first, second = (
        build("label_matched")(indices, adapted)
        for adapted in (torch.zeros(12, 3), torch.randn(12, 3))
    )
    assert torch.equal(first, second)


def test_paired_is_the_same_clip_and_nan_where_there_is_none() -> None:
    pairs = torch.randn(12, 3)
    pairs[4] = torch.nan
    indices = torch.tensor([7, 4, 0, 7])
    found = build("paired", pairs=pairs)(indices, torch.zeros(4, 3))
    torch.testing.assert_close(found, pairs[indices], equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("label_matched", {"source_labels": None}, "needs the labels of source clips"),
        ("label_matched", {"target_labels": None}, "needs the labels of target clips"),
        (
            "label_matched",
            {"source_labels": torch.tensor([[0.0], [torch.nan]])},
            "1 of 2 source clips are unlabelled",
        ),
        ("label_matched", {"target_labels": torch.zeros(40, 7)}, "1 labels each, target clips 7"),
        ("label_matched", {"neighbours": 41}, r"neighbours is 41; expected 1 to 40"),
        ("label_matched", {"neighbours": 0}, r"neighbours is 0; expected 1 to 40"),
        ("paired", {"pairs": None}, "through the target space's extractor too"),
        ("paired", {"pairs": torch.full((12, 3), torch.nan)}, "there are none"),
    ],
)
def test_what_a_pairing_lacks_is_said(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **given)


@pytest.mark.parametrize("name", ["random", "centroid"])
def test_pairings_that_need_neither_labels_nor_pairs_do_without(name: str) -> None:
    build(name, target_labels=None, source_labels=None, pairs=None)


def test_label_matched_needs_no_pairs_and_paired_no_labels() -> None:
    assert isinstance(build("label_matched", pairs=None), LabelMatched)
    build("paired", target_labels=None, source_labels=None)
