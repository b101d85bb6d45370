"""What every fusion network promises, for every file in ``conf/model``."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from msa_lightning import MODALITIES, config
from msa_lightning.batch import Batch, Output

MODELS = sorted(path.stem for path in Path(config.CONF, "model").glob("*.yaml"))
MODALITY_SETS = sorted(path.stem for path in Path(config.CONF, "modalities").glob("*.yaml"))
NEEDS_ALL = {"tfn"}
DIMS = {"text": 7, "audio": 5, "visual": 6}
OUTPUTS = {"sentiment": 1, "emotions": 6}

Build = Callable[..., nn.Module]
MakeBatch = Callable[..., Batch]


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build(name: str, configure: Callable[..., DictConfig]) -> Build:
    """A new network with the settings of its config file; the same weights for the same seed."""

    def build(*, dims: dict[str, int] = DIMS, seed: int = 0, dropout: bool = True) -> nn.Module:
        cfg = config.resolve(configure("train", f"model={name}")).model
        if not dropout:
            cfg.update({key: 0.0 for key in cfg if "dropout" in key})
        torch.manual_seed(seed)
        net: nn.Module = config.instantiate(cfg, dims=dims, outputs=OUTPUTS)
        return net

    return build


@pytest.fixture
def batch(make_batch: MakeBatch) -> Batch:
    return make_batch(DIMS, OUTPUTS)


@pytest.fixture
def net(build: Build, make_batch: MakeBatch) -> nn.Module:
    """A network in eval mode whose batch norms have seen data."""
    net = build()
    for seed in range(5):
        net(make_batch(DIMS, OUTPUTS, n=8, seed=seed + 10))
    return net.eval()


def forward(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(0)
    output: Output = net(batch)
    return output.predictions


def mse(net: nn.Module, batch: Batch) -> Tensor:
    predictions = forward(net, batch)
    return torch.stack([(p - batch.targets[k]).square().mean() for k, p in predictions.items()])


def rows(batch: Batch, chosen: list[int]) -> Batch:
    features, masks, targets = (
        {k: x[chosen] for k, x in d.items()} for d in (batch.features, batch.masks, batch.targets)
    )
    return Batch(features, masks, targets, [batch.ids[i] for i in chosen])


def without(batch: Batch, absent: dict[str, list[int]], value: float = 0.0) -> Batch:
    """Take modalities from clips; what lies there instead is ``value``."""
    masks = {m: x.clone() for m, x in batch.masks.items()}
    for m, clips in absent.items():
        masks[m][clips] = False
    return filled(batch.replace(masks=masks), value)


def filled(batch: Batch, value: float) -> Batch:
    """Put a value under every false mask."""
    features = {
        m: x.masked_fill(~batch.masks[m][..., None], value) for m, x in batch.features.items()
    }
    return batch.replace(features=features)


def everywhere(batch: Batch) -> list[int]:
    return list(range(len(batch)))


def assert_finite(tensors: dict[str, Tensor]) -> None:
    assert all(x.isfinite().all() for x in tensors.values())


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {k: p.grad for k, p in net.named_parameters() if p.grad is not None}


def test_config_leaves_sizes_to_the_caller(configure: Callable[..., DictConfig], name: str) -> None:
    cfg = configure("train", f"model={name}", "paths.run=/r")
    assert not {"dims", "outputs"} & set(cfg.model)
    config.validate(config.resolve(cfg), {"model": {"dims", "outputs"}})


def test_one_prediction_per_clip_and_target(net: nn.Module, batch: Batch) -> None:
    predictions = forward(net, batch)
    assert {k: tuple(p.shape) for k, p in predictions.items()} == {
        "sentiment": (6, 1),
        "emotions": (6, 6),
    }
    assert all(p.dtype == torch.float32 for p in predictions.values())
    assert all(p.unique(dim=0).shape[0] == 6 for p in predictions.values())


@pytest.mark.parametrize("value", [1e4, torch.nan, torch.inf])
@pytest.mark.parametrize("steps", [1, 5])
def test_padding_never_changes_an_output(
    net: nn.Module, make_batch: MakeBatch, steps: int, value: float
) -> None:
    batch = make_batch(DIMS, OUTPUTS, steps=steps)
    absent = {"text": [0, 5], "audio": [1, 5], "visual": [2, 5]}
    expected = forward(net, without(batch, absent))
    found = forward(net, without(batch, absent, value))
    assert all(torch.equal(found[k], expected[k]) for k in OUTPUTS)


@pytest.mark.parametrize("value", [1e4, torch.nan])
def test_padding_never_changes_a_gradient(build: Build, batch: Batch, value: float) -> None:
    absent = {"text": [0, 5], "audio": [1, 5], "visual": [2, 5]}
    found = []
    for fill in (0.0, value):
        net = build()
        mse(net, without(batch, absent, fill)).sum().backward()
        found.append(gradients(net))
    assert all(torch.equal(found[1][k], gradient) for k, gradient in found[0].items())


def test_more_padding_changes_nothing(net: nn.Module, batch: Batch) -> None:
    longer = batch.replace(
        features={m: nn.functional.pad(x, (0, 0, 0, 3)) for m, x in batch.features.items()},
        masks={m: nn.functional.pad(x, (0, 3)) for m, x in batch.masks.items()},
    )
    expected, found = forward(net, batch), forward(net, longer)
    for k in OUTPUTS:
        torch.testing.assert_close(found[k], expected[k])


def test_clip_does_not_depend_on_its_neighbours(net: nn.Module, batch: Batch) -> None:
    batch = without(batch, {"text": [0], "audio": [1], "visual": [2]})
    expected = forward(net, batch)
    for i in range(len(batch)):
        alone = forward(net, rows(batch, [i]))
        others = batch.replace(features={m: 100 * x for m, x in batch.features.items()})
        for m, x in batch.features.items():
            others.features[m][i] = x[i]
        beside = forward(net, others)
        for k in OUTPUTS:
            torch.testing.assert_close(alone[k][0], expected[k][i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(beside[k][i], expected[k][i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 5])
def test_batch_of_one(build: Build, make_batch: MakeBatch, steps: int) -> None:
    net, batch = build(), make_batch(DIMS, OUTPUTS, n=1, steps=steps)
    buffers = {k: x.clone() for k, x in net.named_buffers()}
    mse(net, batch).sum().backward()
    assert_finite(gradients(net))
    assert_finite(forward(net.eval(), batch))
    assert all(torch.equal(x, buffers[k]) for k, x in net.named_buffers())


@pytest.mark.parametrize("m", MODALITIES)
@pytest.mark.parametrize("training", [False, True])
def test_some_clips_lack_a_modality(build: Build, batch: Batch, m: str, training: bool) -> None:
    net = build().train(training)
    some = without(batch, {m: [0, 2]})
    assert_finite(forward(net, some))
    mse(net, some).sum().backward()
    assert_finite(gradients(net))


def test_clip_with_nothing_at_all_gets_a_prediction(net: nn.Module, batch: Batch) -> None:
    expected = forward(net, batch)
    found = forward(net, without(batch, {m: [3] for m in MODALITIES}))
    assert_finite(found)
    others = [0, 1, 2, 4, 5]
    for k in OUTPUTS:
        torch.testing.assert_close(found[k][others], expected[k][others])


def test_missing_modality_changes_the_prediction(net: nn.Module, batch: Batch) -> None:
    expected = forward(net, batch)["sentiment"]
    for m in MODALITIES:
        found = forward(net, without(batch, {m: [0]}))["sentiment"]
        assert not torch.isclose(found[0], expected[0])


@pytest.mark.parametrize("absent", [*[(m,) for m in MODALITIES], MODALITIES], ids="_".join)
def test_all_clips_of_a_training_batch_lack_a_modality(
    build: Build, batch: Batch, absent: tuple[str, ...]
) -> None:
    net = build()
    of_absent = {k: x.clone() for k, x in net.named_buffers() if any(f".{m}." in k for m in absent)}
    gone = without(batch, {m: everywhere(batch) for m in absent})
    assert_finite(forward(net, gone))
    mse(net, gone).sum().backward()
    assert_finite(gradients(net))
    buffers = dict(net.named_buffers())
    assert all(torch.equal(buffers[k], x) for k, x in of_absent.items())
    assert_finite(buffers)


@pytest.mark.parametrize("m", MODALITIES)
def test_batch_norm_of_a_modality_counts_its_clips_only(build: Build, batch: Batch, m: str) -> None:
    absent, present = build(dropout=False), build(dropout=False)
    forward(absent, without(batch, {m: [1, 4]}, value=50.0))
    forward(present, rows(batch, [0, 2, 3, 5]))
    found = dict(absent.named_buffers())
    for k, expected in present.named_buffers():
        if f".{m}." in k:
            torch.testing.assert_close(found[k], expected)


def test_batch_norm_ignores_clips_with_nothing_at_all(build: Build, batch: Batch) -> None:
    absent, present = build(dropout=False), build(dropout=False)
    forward(absent, without(batch, {m: [1, 4] for m in MODALITIES}, value=50.0))
    forward(present, rows(batch, [0, 2, 3, 5]))
    found = dict(absent.named_buffers())
    for k, expected in present.named_buffers():
        torch.testing.assert_close(found[k], expected)


def test_every_parameter_gets_a_gradient(build: Build, make_batch: MakeBatch) -> None:
    net, batch = build(dropout=False), make_batch(DIMS, OUTPUTS, n=16)
    mse(net, batch).sum().backward()
    found = gradients(net)
    without_one = [k for k, _ in net.named_parameters() if k not in found or not found[k].any()]
    assert without_one == []


def test_overfits_one_batch(build: Build, make_batch: MakeBatch) -> None:
    net, batch = build(dropout=False), make_batch(DIMS, OUTPUTS, n=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, fused=True)
    first = mse(net, batch).detach()
    for _ in range(200):
        loss = mse(net, batch)
        if (loss < 0.01 * first).all():
            return
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    pytest.fail(f"from {first.tolist()} to {loss.tolist()} in 200 steps")


def test_state_dict_round_trip(build: Build, net: nn.Module, batch: Batch, tmp_path: Path) -> None:
    expected = forward(net, batch)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    other = build(seed=1).eval()
    assert not torch.equal(forward(other, batch)["sentiment"], expected["sentiment"])
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    found = forward(other, batch)
    assert all(torch.equal(found[k], expected[k]) for k in OUTPUTS)


def test_runs_in_mixed_precision(build: Build, batch: Batch) -> None:
    net = build()
    some = without(batch, {"text": [0, 3], "audio": [1, 3], "visual": [2, 3]})
    with torch.autocast("cpu", torch.bfloat16):
        loss = mse(net, some).sum()
    loss.backward()
    assert_finite(gradients(net))


@pytest.mark.parametrize("chosen", MODALITY_SETS)
def test_combination_of_modalities(
    name: str, build: Build, make_batch: MakeBatch, chosen: str
) -> None:
    modalities = OmegaConf.load(Path(config.CONF, "modalities", f"{chosen}.yaml")).modalities
    dims = {m: DIMS[m] for m in modalities}
    missing = [m for m in MODALITIES if m not in dims]
    if name in NEEDS_ALL and missing:
        with pytest.raises(ValueError, match=".*".join(missing)):
            build(dims=dims)
        return
    batch = make_batch(dims, OUTPUTS)
    net = build(dims=dims).eval()
    expected = forward(net, batch)
    assert {k: tuple(p.shape) for k, p in expected.items()} == {
        "sentiment": (6, 1),
        "emotions": (6, 6),
    }
    for m in dims:
        changed = batch.replace(features=batch.features | {m: batch.features[m] + 1})
        assert not torch.equal(forward(net, filled(changed, 0))["sentiment"], expected["sentiment"])


def test_order_of_dims_does_not_matter(build: Build, batch: Batch) -> None:
    net = build()
    other = build(dims=dict(reversed(DIMS.items())), seed=1)
    other.load_state_dict(net.state_dict())
    expected, found = forward(net.eval(), batch), forward(other.eval(), batch)
    assert all(torch.equal(found[k], expected[k]) for k in OUTPUTS)
