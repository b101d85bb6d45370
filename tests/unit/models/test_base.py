"""What the transfer paper says about its base model (sections 3.6.1, 4.1 and 4.2)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from msa_lightning import MODALITIES, config
from msa_lightning.batch import Batch
from msa_lightning.models.base import BaseFusion

PAPER = {"text": 300, "audio": 74, "visual": 713}
SMALL = {"text": 7, "audio": 5, "visual": 6}
OUTPUTS = {"sentiment": 1}

Build = Callable[..., BaseFusion]
MakeBatch = Callable[..., Batch]


@pytest.fixture
def build(configure: Callable[..., DictConfig]) -> Build:
    """The model of ``conf/model/base.yaml``."""

    def build(dims: dict[str, int], **changes: Any) -> BaseFusion:
        torch.manual_seed(0)
        net: BaseFusion = config.instantiate(
            configure("train").model, dims=dims, outputs=OUTPUTS, **changes
        )
        return net

    return build


@pytest.fixture
def net(build: Build, make_batch: MakeBatch) -> BaseFusion:
    """In eval mode, with batch norms that have seen data."""
    net = build(SMALL)
    for seed in range(5):
        net(make_batch(SMALL, OUTPUTS, n=8, steps=1, seed=seed + 10))
    return net.eval()


@pytest.fixture
def batch(make_batch: MakeBatch) -> Batch:
    return make_batch(SMALL, OUTPUTS, steps=1)


def layers(net: nn.Module) -> list[str]:
    """Width and kind of the layers of a sequence, as the paper lists them."""
    names = []
    for layer in net.children():
        match layer:
            case nn.Linear():
                names.append(f"{layer.in_features}-{layer.out_features}")
            case nn.BatchNorm1d():
                names.append(f"BN {layer.num_features}")
            case nn.Dropout():
                names.append(f"dropout {layer.p}")
            case _:
                names.append(type(layer).__name__)
    return names


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def absent(batch: Batch, m: str, value: float) -> Batch:
    """The batch without one modality; ``value`` lies there instead."""
    features = batch.features | {m: torch.full_like(batch.features[m], value)}
    masks = batch.masks | {m: torch.zeros_like(batch.masks[m])}
    return batch.replace(features=features, masks=masks)


def reference(net: BaseFusion, batch: Batch, present: list[str]) -> Tensor:
    """Section 4.2 on time averages (B, D), attention written out among the present modalities."""
    tokens = torch.stack([net.encoders[m](batch.features[m][:, 0]) for m in present], 1)
    if net.attention is not None:
        a, (n, t, e) = net.attention, tokens.shape
        q, k, v = (tokens @ a.in_proj_weight.T + a.in_proj_bias).chunk(3, -1)
        q, k, v = (x.reshape(n, t, 4, e // 4).transpose(1, 2) for x in (q, k, v))
        weights = (q @ k.transpose(2, 3) / (e // 4) ** 0.5).softmax(-1)
        tokens = tokens + a.out_proj((weights @ v).transpose(1, 2).reshape(n, t, e))
    nothing = torch.zeros_like(tokens[:, 0])
    placed = [tokens[:, present.index(m)] if m in present else nothing for m in MODALITIES]
    prediction: Tensor = net.heads["sentiment"](net.fusion(torch.cat(placed, 1)))
    return prediction


def test_encoders_have_the_layers_of_section_4_2_1(build: Build) -> None:
    net = build(PAPER)
    assert list(net.encoders) == ["text", "audio", "visual"]
    for m, d in PAPER.items():
        assert layers(net.encoders[m]) == [
            *(f"{d}-192", "BN 192", "ReLU", "dropout 0.7"),
            *("192-192", "BN 192", "ReLU", "dropout 0.7"),
            *("192-96", "BN 96"),
        ]


def test_attention_is_that_of_section_4_2_2(build: Build) -> None:
    attention = build(PAPER).attention
    assert attention is not None
    assert (attention.embed_dim, attention.num_heads, attention.dropout) == (96, 4, 0.8)


def test_fusion_has_the_layers_of_section_4_2_3(build: Build) -> None:
    net = build(PAPER)
    assert layers(net.fusion) == [
        *("288-192", "BN 192", "ReLU", "dropout 0.7"),
        *("192-96", "BN 96", "ReLU", "dropout 0.7"),
    ]
    assert layers(net.heads) == ["96-1"]


def test_parameter_count_worked_out_by_hand(build: Build) -> None:
    # an encoder: 192 D + 192 | BN 384 | 36864 + 192 | BN 384 | 18432 + 96 | BN 192
    encoders = 192 * (300 + 74 + 713) + 3 * 56_736
    attention = 3 * (96 * 96 + 96) + 96 * 96 + 96
    fusion = (288 * 192 + 192) + 384 + (192 * 96 + 96) + 192
    assert encoders + attention + fusion + 97 == 490_849
    assert count(build(PAPER)) == 490_849
    assert count(build(PAPER, fusion_input="encoded")) == 490_849 - attention


@pytest.mark.parametrize("modalities", [["text"], ["text", "visual"]])
def test_fusion_narrows_with_fewer_modalities(build: Build, modalities: list[str]) -> None:
    net = build({m: PAPER[m] for m in modalities})
    assert list(net.encoders) == modalities
    assert layers(net.fusion)[0] == f"{96 * len(modalities)}-192"


def test_prediction_is_that_of_the_paper(net: BaseFusion, batch: Batch) -> None:
    found = net(batch).predictions["sentiment"]
    torch.testing.assert_close(found, reference(net, batch, list(MODALITIES)))


def test_prediction_without_autograd_is_the_same(net: BaseFusion, batch: Batch) -> None:
    """PyTorch takes another path through attention there."""
    for given in (batch, absent(batch, "audio", 0)):
        with torch.inference_mode():
            found = net(given).predictions["sentiment"]
        torch.testing.assert_close(found.clone(), net(given).predictions["sentiment"].detach())


def test_prediction_is_not_squashed(net: BaseFusion, batch: Batch) -> None:
    before = net(batch).predictions["sentiment"]
    with torch.no_grad():
        net.heads["sentiment"].bias += 100
    torch.testing.assert_close(net(batch).predictions["sentiment"], before + 100)


def test_features_are_averaged_over_real_steps(net: BaseFusion, make_batch: MakeBatch) -> None:
    sequences = make_batch(SMALL, OUTPUTS, steps=5)
    means = {
        m: torch.stack([x[sequences.masks[m][i]].mean(0) for i, x in enumerate(features)])
        for m, features in sequences.features.items()
    }
    vectors = sequences.replace(
        features={m: x[:, None] for m, x in means.items()},
        masks={m: torch.ones(len(sequences), 1, dtype=torch.bool) for m in means},
    )
    torch.testing.assert_close(
        net(sequences).predictions["sentiment"], net(vectors).predictions["sentiment"]
    )


@pytest.mark.parametrize("m", MODALITIES)
def test_absent_token_is_zero_and_masked(net: BaseFusion, batch: Batch, m: str) -> None:
    present = [x for x in MODALITIES if x != m]
    expected = reference(net, batch, present)
    for value in (0.0, 1e4, torch.nan):
        found = net(absent(batch, m, value)).predictions["sentiment"]
        torch.testing.assert_close(found, expected)


def test_clip_with_nothing_at_all_gets_the_bias(net: BaseFusion, batch: Batch) -> None:
    for m in MODALITIES:
        batch = absent(batch, m, torch.nan)
    found = net(batch).predictions["sentiment"]
    assert torch.equal(found, net.heads["sentiment"].bias.expand(6, 1))


def test_encoded_reading_builds_no_attention(build: Build, batch: Batch) -> None:
    net = build(SMALL, fusion_input="encoded").eval()
    assert net.attention is None
    assert not [k for k in net.state_dict() if "attention" in k]
    found = net(batch).predictions["sentiment"]
    torch.testing.assert_close(found, reference(net, batch, list(MODALITIES)))


def test_unknown_reading_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match=r"'attend'.*'attended' or 'encoded'"):
        build(SMALL, fusion_input="attend")
