"""Adapters before a frozen base model, without any run."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from msa_lightning.adapters.composed import Composed, Unchanged
from msa_lightning.adapters.network import Adapter
from msa_lightning.batch import Batch
from msa_lightning.models.base import BaseFusion

SOURCE, TARGET, OUTPUTS = {"text": 4, "audio": 3}, {"text": 5, "audio": 6}, {"sentiment": 1}
Make = Callable[..., Batch]


def base_model() -> BaseFusion:
    """In training mode, as a constructor leaves it."""
    return BaseFusion(
        dims=TARGET,
        outputs=OUTPUTS,
        hidden=8,
        embed=8,
        heads=2,
        dropout=0.5,
        attention_dropout=0.5,
        fusion_input="attended",
    )


def composed(*modalities: str) -> Composed:
    torch.manual_seed(0)
    adapters = {
        m: Adapter(source=SOURCE[m], target=TARGET[m], hidden=[8], dropout=0.3) for m in modalities
    }
    return Composed(base=base_model(), adapters=adapters, base_dims=TARGET)


@pytest.fixture
def batch(make_batch: Make) -> Batch:
    return make_batch(SOURCE, OUTPUTS, steps=1)


@pytest.mark.parametrize("mode", ["as constructed", "train", "parent's train"])
def test_training_leaves_every_number_of_the_base_alone(batch: Batch, mode: str) -> None:
    net = composed("text", "audio")
    parent = nn.Sequential(net)
    if mode != "as constructed":
        (net if mode == "train" else parent).train()
    assert net.training
    before = {name: x.clone() for name, x in net.base.state_dict().items()}
    assert {name.rsplit(".")[-1] for name in before} >= {"running_mean", "num_batches_tracked"}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    matrices = [p for p in net.adapters.parameters() if p.ndim == 2]
    adapted = [p.detach().clone() for p in matrices]
    for _ in range(3):
        optimizer.zero_grad()
        net(batch).predictions["sentiment"].square().mean().backward()
        optimizer.step()
    after = net.base.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(p.grad is None for p in net.base.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(adapted, matrices, strict=True))


def test_the_base_drops_nothing_out_while_adapters_train(batch: Batch) -> None:
    net = composed("text", "audio").train()
    features = {m: x.detach() for m, x in net.adapt(batch).items()}
    first, second = (net.predict(batch, features).predictions["sentiment"] for _ in range(2))
    assert torch.equal(first, second)


def test_train_and_eval_reach_the_adapters() -> None:
    net = composed("text")
    assert net.train() is net
    assert net.adapters["text"].training
    assert not net.train().base.training
    assert not net.eval().adapters["text"].training


def test_a_modality_without_an_adapter_is_masked(batch: Batch) -> None:
    net = composed("text").eval()
    found = net(batch).predictions["sentiment"]
    features = dict(net.adapt(batch)) | {"audio": torch.full((len(batch), 1, 6), 1e4)}
    masks = {"text": batch.masks["text"], "audio": torch.zeros(len(batch), 1, dtype=torch.bool)}
    expected = net.base(batch.replace(features=features, masks=masks)).predictions["sentiment"]
    torch.testing.assert_close(found, expected)


def test_a_modality_that_the_source_lacks_is_masked(batch: Batch) -> None:
    net = composed("text", "audio").eval()
    alone = batch.replace(
        features={"text": batch.features["text"]}, masks={"text": batch.masks["text"]}
    )
    masks = batch.masks | {"audio": torch.zeros_like(batch.masks["audio"])}
    expected = net(batch.replace(masks=masks)).predictions["sentiment"]
    torch.testing.assert_close(net(alone).predictions["sentiment"], expected)


@pytest.mark.parametrize("value", [1e4, torch.nan])
def test_what_lies_under_a_false_mask_changes_nothing(batch: Batch, value: float) -> None:
    net = composed("text", "audio").eval()
    masks = {m: mask.clone() for m, mask in batch.masks.items()}
    masks["text"][1], masks["audio"][2] = False, False
    hidden = batch.replace(masks=masks)
    filled = {m: x.masked_fill(~masks[m][..., None], value) for m, x in batch.features.items()}
    expected = net(hidden).predictions["sentiment"]
    assert torch.equal(net(hidden.replace(features=filled)).predictions["sentiment"], expected)


def test_sequences_are_adapted_step_by_step(make_batch: Make) -> None:
    batch = make_batch(SOURCE, OUTPUTS, steps=4)
    net = composed("text", "audio").eval()
    found = net.adapt(batch)
    assert {m: x.shape for m, x in found.items()} == {"text": (6, 4, 5), "audio": (6, 5, 6)}
    assert net(batch).predictions["sentiment"].shape == (6, 1)


def test_unchanged_adapters_are_the_base_itself(make_batch: Make) -> None:
    batch = make_batch(TARGET, OUTPUTS, steps=1)
    adapters = {m: Unchanged(source=d, target=d) for m, d in TARGET.items()}
    net = Composed(base=base_model(), adapters=adapters, base_dims=TARGET).eval()
    found = net(batch).predictions["sentiment"]
    assert torch.equal(found, net.base(batch).predictions["sentiment"])
    with pytest.raises(ValueError, match="size 3 are not of size 4"):
        Unchanged(source=3, target=4)
