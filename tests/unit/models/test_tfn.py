"""What Zadeh et al. (2017) say about the tensor fusion network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msa_lightning.batch import Batch
from msa_lightning.models.tfn import TFN

DIMS = {"text": 7, "audio": 5, "visual": 6}
OUTPUTS = {"sentiment": 1, "arousal": 1}
T, A, V = 4, 2, 3  # sizes of the embeddings

MakeBatch = Callable[..., Batch]


def build(**changes: Any) -> TFN:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "dims": DIMS,
        "outputs": OUTPUTS,
        "hidden": {"text": 8, "audio": A, "visual": V},
        "text_out": T,
        "fusion": 16,
        "dropout": 0.3,
        "fusion_dropout": 0.5,
        "ranges": {"sentiment": (-3, 3), "valence": (0, 1)},
    }
    net = TFN(**settings | changes).eval()
    for p in net.subnets.parameters():
        p.data.abs_()  # no dead units in layers as narrow as these
    return net


def fused(net: TFN, batch: Batch) -> Tensor:
    """What goes into the fusion layers, as (B, T + 1, A + 1, V + 1)."""
    seen = []
    hook = net.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(batch)
    hook.remove()
    tensor: Tensor = seen[0].reshape(len(batch), T + 1, A + 1, V + 1)
    return tensor


def without(batch: Batch, *absent: str) -> Batch:
    masks = {m: x & (m not in absent) for m, x in batch.masks.items()}
    return batch.replace(masks=masks)


@pytest.fixture
def batch(make_batch: MakeBatch) -> Batch:
    batch = make_batch(DIMS, OUTPUTS)
    return batch.replace(features={m: x.abs() for m, x in batch.features.items()})


def test_fusion_sees_all_products_of_embeddings_and_ones(batch: Batch) -> None:
    net = build()
    tensor = fused(net, batch)
    text, audio, visual = tensor[:, 1:, 0, 0], tensor[:, 0, 1:, 0], tensor[:, 0, 0, 1:]
    means = {
        m: torch.stack([x[batch.masks[m][i]].mean(0) for i, x in enumerate(batch.features[m])])
        for m in ("audio", "visual")
    }
    torch.testing.assert_close(audio, net.subnets["audio"](means["audio"]))
    torch.testing.assert_close(visual, net.subnets["visual"](means["visual"]))
    for i in range(len(batch)):
        t, a, v = (torch.cat([torch.ones(1), x[i]]) for x in (text, audio, visual))
        torch.testing.assert_close(tensor[i], t[:, None, None] * a[:, None] * v)
    assert (tensor != 0).all()


def test_text_is_the_last_state_over_real_steps(batch: Batch) -> None:
    net = build()
    text = fused(net, batch)[:, 1:, 0, 0]
    for i, x in enumerate(batch.features["text"]):
        _, (last, _) = net.text(x[batch.masks["text"][i]][None])
        torch.testing.assert_close(text[i], net.text_out(last[0])[0])


def test_without_text_the_other_products_remain(batch: Batch) -> None:
    net = build()
    whole, tensor = fused(net, batch), fused(net, without(batch, "text"))
    assert not tensor[:, 1:].any()
    assert torch.equal(tensor[:, 0], whole[:, 0])
    assert (tensor[:, 0] != 0).all()


def test_without_audio_and_visual_only_text_remains(batch: Batch) -> None:
    net = build()
    whole, tensor = fused(net, batch), fused(net, without(batch, "audio", "visual"))
    assert torch.equal(tensor[:, :, 0, 0], whole[:, :, 0, 0])
    assert not tensor[:, :, 1:].any()
    assert not tensor[:, :, :, 1:].any()


def test_without_anything_the_constant_remains(batch: Batch) -> None:
    tensor = fused(build(), without(batch, "text", "audio", "visual"))
    assert (tensor[:, 0, 0, 0] == 1).all()
    assert tensor.sum() == len(batch)


def test_sub_networks_are_those_of_the_paper() -> None:
    net = build()
    for m, width in (("audio", A), ("visual", V)):
        shapes = [tuple(p.shape) for p in net.subnets[m].parameters() if p.ndim == 2]
        assert shapes == [(width, DIMS[m]), (width, width), (width, width)]
    assert net.fusion[1].in_features == (T + 1) * (A + 1) * (V + 1)


def test_prediction_is_a_sigmoid_scaled_to_the_range(batch: Batch) -> None:
    net = build()
    ranged, free = net(batch).predictions, build(ranges={})(batch).predictions
    torch.testing.assert_close(ranged["sentiment"], 6 * F.sigmoid(free["sentiment"]) - 3)
    assert torch.equal(ranged["arousal"], free["arousal"])


def test_prediction_stays_inside_the_range(batch: Batch) -> None:
    net = build()
    for sign in (-1, 1):
        with torch.no_grad():
            for head in net.heads.values():
                head.bias.fill_(sign * 1e3)
        predictions = net(batch).predictions
        assert torch.equal(predictions["sentiment"], torch.full((6, 1), 3.0 * sign))
        assert (predictions["arousal"] * sign > 3).all()


@pytest.mark.parametrize("missing", [["text"], ["audio", "visual"]])
def test_a_missing_modality_is_refused_by_name(missing: list[str]) -> None:
    with pytest.raises(ValueError, match="TFN needs text, audio and visual") as error:
        build(dims={m: d for m, d in DIMS.items() if m not in missing})
    assert str(missing) in str(error.value)
