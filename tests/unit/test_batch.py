"""Clips of every kind become one padded batch, and padding is never seen again."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from msa_lightning.batch import Batch, Clip, collate, masked_mean


def clip(name: str = "v_0", y: Sequence[float] = (0.5,), **features: Tensor) -> Clip:
    return Clip(name, features, {"sentiment": torch.tensor(y)})


def test_ragged_sequences_are_padded_and_masked() -> None:
    short, long = torch.randn(2, 3), torch.randn(4, 3)
    audio = torch.randn(5, 2), torch.randn(1, 2)
    batch = collate(
        [clip("a_0", (1.0,), text=short, audio=audio[0]), clip("a_1", text=long, audio=audio[1])]
    )
    assert batch.features["text"].shape == (2, 4, 3)
    assert batch.features["audio"].shape == (2, 5, 2)
    assert batch.masks["text"].tolist() == [[True, True, False, False], [True] * 4]
    assert batch.masks["audio"].sum(1).tolist() == [5, 1]
    assert torch.equal(batch.features["text"][batch.masks["text"]], torch.cat([short, long]))
    assert torch.equal(batch.features["audio"][batch.masks["audio"]], torch.cat(audio))
    assert torch.equal(batch.targets["sentiment"], torch.tensor([[1.0], [0.5]]))
    assert (list(batch.ids), len(batch)) == (["a_0", "a_1"], 2)


def test_modality_missing_for_one_clip_is_masked() -> None:
    batch = collate([clip(audio=torch.ones(2, 3)), clip(audio=torch.zeros(0, 3))])
    assert batch.masks["audio"].tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("shape", [(3,), (), (3, 4, 5)])
def test_modality_missing_for_every_clip_keeps_one_masked_step(shape: tuple[int, ...]) -> None:
    batch = collate([clip(audio=torch.zeros(0, *shape))] * 2)
    assert batch.features["audio"].shape == (2, 1, *shape)
    assert batch.masks["audio"].tolist() == [[False], [False]]


def test_token_ids_stay_integers() -> None:
    batch = collate([clip(text=torch.tensor([101, 7, 102])), clip(text=torch.tensor([101]))])
    assert batch.features["text"].dtype == torch.int64
    assert batch.features["text"].tolist() == [[101, 7, 102], [101, 0, 0]]
    assert batch.masks["text"].sum(1).tolist() == [3, 1]


def test_waveforms_and_frames() -> None:
    waves, frames = (torch.randn(160), torch.randn(90)), (torch.randn(2, 3, 4, 5),) * 2
    batch = collate(
        [clip(audio=w, visual=f) for w, f in zip(waves, (frames[0], frames[1][:1]), strict=True)]
    )
    assert batch.features["audio"].shape == batch.masks["audio"].shape == (2, 160)
    assert batch.features["visual"].shape == (2, 2, 3, 4, 5)
    assert batch.masks["visual"].tolist() == [[True, True], [True, False]]
    assert torch.equal(batch.features["audio"][batch.masks["audio"]], torch.cat(waves))


def test_several_targets_per_clip_and_per_step() -> None:
    clips = [
        Clip(
            f"v_{i}",
            {"audio": torch.ones(t, 1)},
            {"emotions": torch.rand(6), "affect": torch.rand(t, 2)},
        )
        for i, t in enumerate([1, 3])
    ]
    batch = collate(clips)
    assert batch.targets["emotions"].shape == (2, 6)
    assert batch.targets["affect"].shape == (2, 3, 2)
    padding = ~batch.masks["audio"][..., None].expand(2, 3, 2)
    assert torch.equal(batch.targets["affect"].isnan(), padding)
    assert torch.equal(batch.targets["affect"][1], clips[1].targets["affect"])


def test_unlabelled_clip_keeps_its_nan() -> None:
    batch = collate([clip(y=[torch.nan], text=torch.ones(1, 1)), clip(text=torch.ones(1, 1))])
    assert batch.targets["sentiment"].isnan().tolist() == [[True], [False]]


def test_time_average_is_one_step() -> None:
    batch = collate([clip(text=torch.ones(1, 300)), clip(text=torch.ones(1, 300))])
    assert batch.features["text"].shape == (2, 1, 300)
    assert batch.masks["text"].all()


def test_a_batch_moves_whole() -> None:
    batch = collate([clip(text=torch.ones(1, 1), audio=torch.ones(2, 1))])
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    for tensors in (moved.features, moved.masks, moved.targets):
        assert all(x.device.type == "meta" for x in tensors.values())
    assert list(moved.features) == ["text", "audio"]
    assert moved.ids == batch.ids


@pytest.mark.parametrize("steps", [1, 4])
def test_masked_mean_counts_real_steps_only(steps: int) -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(5, steps, 3, requires_grad=True), torch.rand(5, steps) < 0.7
    mask[0] = False
    dirty = x.masked_fill(~mask[..., None], torch.nan)
    found = masked_mean(dirty, mask)
    for i in range(5):
        expected = x[i][mask[i]].mean(0) if mask[i].any() else torch.zeros(3)
        torch.testing.assert_close(found[i], expected)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert torch.equal(x.grad != 0, mask[..., None].expand_as(x))
