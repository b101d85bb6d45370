"""Adapters: the paper's layers, and rows that are not there."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from msa_lightning import MODALITIES, config
from msa_lightning.adapters.network import Adapter

SIZES = {"text": (768, 300), "audio": (74, 74), "visual": (65, 713)}
HIDDEN = {"text": 384, "audio": 256, "visual": 512}


def from_yaml(modality: str) -> Adapter:
    node = OmegaConf.load(f"{config.CONF}/adapter/{modality}.yaml").adapter
    source, target = SIZES[modality]
    net: Adapter = config.instantiate(node, source=source, target=target)
    return net


@pytest.fixture
def net() -> Adapter:
    """Small, with batch norms that have seen data."""
    torch.manual_seed(0)
    net = Adapter(source=3, target=4, hidden=[8, 8], dropout=0.3)
    for _ in range(5):
        net(torch.randn(16, 3), torch.ones(16, dtype=torch.bool))
    return net


@pytest.mark.parametrize("modality", MODALITIES)
def test_layers_are_those_of_section_3_6_2(modality: str) -> None:
    (source, target), h = SIZES[modality], HIDDEN[modality]
    block = [nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    layers = list(from_yaml(modality).layers)
    kinds = [nn.Linear, *block, nn.Linear, *block, nn.Linear]
    assert [isinstance(x, k) for x, k in zip(layers, kinds, strict=True)] == [True] * 9
    assert [x.p for x in layers if isinstance(x, nn.Dropout)] == [0.3, 0.3]
    linear = [(x.in_features, x.out_features) for x in layers if isinstance(x, nn.Linear)]
    assert linear == [(source, h), (h, h), (h, target)]


@pytest.mark.parametrize(
    ("modality", "expected"), [("text", 560_172), ("audio", 105_034), ("visual", 664_265)]
)
def test_parameter_count_worked_out_by_hand(modality: str, expected: int) -> None:
    (s, t), h = SIZES[modality], HIDDEN[modality]
    assert (s + 1) * h + (h + 1) * h + 4 * h + (h + 1) * t == expected
    assert sum(p.numel() for p in from_yaml(modality).parameters()) == expected


def test_no_hidden_layer_is_a_linear_map() -> None:
    net = Adapter(source=3, target=4, hidden=[], dropout=0.3)
    x = torch.randn(5, 3)
    (layer,) = net.layers
    assert torch.equal(net(x, torch.ones(5, dtype=torch.bool)), layer(x))


def test_a_sequence_is_adapted_step_by_step(net: Adapter) -> None:
    net.eval()
    x, mask = torch.randn(2, 5, 3), torch.rand(2, 5) < 0.6
    found = net(x, mask)
    assert found.shape == (2, 5, 4)
    for i in range(2):
        torch.testing.assert_close(found[i], net(x[i], mask[i]))


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 4)])
@pytest.mark.parametrize("training", [True, False])
def test_what_lies_under_a_false_mask_changes_nothing(
    net: Adapter, shape: tuple[int, ...], training: bool
) -> None:
    net.train(training)
    x, mask = torch.randn(*shape, 3), torch.rand(shape) < 0.6
    mask[:2], mask[2] = True, False
    before = {k: v.clone() for k, v in net.state_dict().items()}
    results = []
    for value in (0.0, 1e4, torch.nan):
        net.load_state_dict(before)
        torch.manual_seed(1)
        found = net(x.masked_fill(~mask[..., None], value), mask)
        results.append((found, {k: v.clone() for k, v in net.state_dict().items()}))
    for found, state in results:
        assert torch.equal(found, results[0][0])
        assert all(torch.equal(state[k], v) for k, v in results[0][1].items())
        assert not found[~mask].any()
        assert found[mask].all()


def test_batch_norm_counts_real_rows_only(net: Adapter) -> None:
    net.layers[1].momentum = 1.0
    x = torch.randn(6, 3)
    mask = torch.tensor([True, False, True, True, False, True])
    net(x, mask)
    torch.testing.assert_close(net.layers[1].running_mean, net.layers[0](x[mask]).mean(0))


@pytest.mark.parametrize("present", [0, 1])
@pytest.mark.parametrize("rows", [1, 4])
def test_too_few_rows_for_batch_norm_leave_it_alone(net: Adapter, present: int, rows: int) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = net(torch.randn(rows, 3), torch.arange(rows) < present)
    assert found.isfinite().all()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_every_parameter_gets_a_gradient(net: Adapter) -> None:
    net(torch.randn(8, 5, 3), torch.rand(8, 5) < 0.7).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("modality", MODALITIES)
def test_config_fits_the_code(modality: str) -> None:
    node = OmegaConf.load(f"{config.CONF}/adapter/{modality}.yaml").adapter
    cfg = OmegaConf.create({"adapter": node})
    config.validate(cfg, {"adapter": {"source", "target"}})
