"""Which clips an adapter is trained on, and with what."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from msa_lightning.adapters.material import join, look_up, some_videos, take, videos
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.errors import ConfigError

IDS = [f"v{v}_{n}" for v in range(12) for n in range(1 + v % 3)]  # 1, 2, 3, 1, … clips a video
VIDEOS = {clip: clip.split("_")[0] for clip in IDS}


def dataset() -> VectorDataset:
    n = len(IDS)
    return VectorDataset(
        ids=IDS,
        features={"text": np.arange(2 * n, dtype=np.float32).reshape(n, 2)},
        present={"text": np.arange(n) % 4 != 0},
        targets={"sentiment": np.arange(n, dtype=np.float32)[:, None]},
    )


def test_taken_rows_keep_their_features_masks_and_labels() -> None:
    rows = torch.tensor([4, 0, 7])
    taken, whole = take(dataset(), rows), dataset()
    assert taken.ids == [IDS[4], IDS[0], IDS[7]]
    for kind in ("features", "masks"):
        assert torch.equal(getattr(taken, kind)["text"], getattr(whole, kind)["text"][rows])
    assert taken.targets["sentiment"][:, 0].tolist() == [4, 0, 7]


def test_labels_of_other_rows() -> None:
    taken = take(dataset(), torch.tensor([4, 0]), labels=torch.tensor([1, 2]))
    assert taken.ids == [IDS[4], IDS[0]]
    assert taken.targets["sentiment"][:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_nested_and_cut_no_video(seed: int) -> None:
    shares = [0.01, 0.1, 0.25, 0.5, 0.75, 1.0]
    found = [set(some_videos(dataset(), VIDEOS, share, seed).ids) for share in shares]
    for share, small, large in zip(shares, found, [*found[1:], set(IDS)], strict=True):
        assert small <= large
        assert max(1, round(share * len(IDS))) <= len(small) < share * len(IDS) + 3
        videos = {VIDEOS[clip] for clip in small}
        assert small == {clip for clip in IDS if VIDEOS[clip] in videos}
    assert found[-1] == set(IDS)


def test_shares_of_other_seeds_differ() -> None:
    halves = {tuple(some_videos(dataset(), VIDEOS, 0.5, seed).ids) for seed in range(5)}
    assert len(halves) == 5


def test_a_share_does_not_depend_on_the_order_of_clips() -> None:
    backwards = take(dataset(), torch.arange(len(IDS) - 1, -1, -1))
    a, b = (some_videos(d, VIDEOS, 0.5, 0).ids for d in (dataset(), backwards))
    assert set(a) == set(b)


def test_joined_clips_are_unlabelled() -> None:
    more = take(dataset(), torch.tensor([2, 0]))
    whole, joined = dataset(), join(dataset(), more)
    assert joined.ids == [*whole.ids, *more.ids]
    n = len(IDS)
    for kind in ("features", "masks"):
        found = getattr(joined, kind)["text"]
        assert torch.equal(found[:n], getattr(whole, kind)["text"])
        assert torch.equal(found[n:], getattr(more, kind)["text"])
    assert torch.equal(joined.targets["sentiment"][:n], whole.targets["sentiment"])
    assert joined.targets["sentiment"][n:].isnan().all()


def test_a_clip_that_is_not_among_the_videos_is_its_own() -> None:
    assert len(some_videos(dataset(), {}, 0.5, 0)) == round(0.5 * len(IDS))


def test_videos_come_from_the_table_or_from_the_ids() -> None:
    table = SimpleNamespace(ids=np.array(["a_b_1"]), videos=np.array(["a_b"]))
    assert videos(SimpleNamespace(table=table), ["a_b_1"]) == {"a_b_1": "a_b"}
    assert videos(SimpleNamespace(), ["a_b_1", "-c_12"]) == {"a_b_1": "a_b", "-c_12": "-c"}


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_impossible_shares(share: float) -> None:
    with pytest.raises(ConfigError, match="is not above 0 and at most 1"):
        some_videos(dataset(), VIDEOS, share, 0)


def test_look_up_says_which_clips_have_no_counterpart() -> None:
    known = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    found = look_up(known, ["b", "x", "a"])
    assert found is not None
    assert found[[0, 2]].tolist() == [[3, 4], [1, 2]]
    assert found[1].isnan().all()
    assert look_up(known, ["x"]) is None
    assert look_up({}, ["a"]) is None
