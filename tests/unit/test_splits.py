"""Random splits cut between videos and depend on nothing but their ids and the seed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msa_lightning.datasets.splits import random_70_15_15


def corpus(videos: int, clips: int = 3) -> list[str]:
    return [f"-v{i:03}" for i in range(videos) for _ in range(clips)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abcdefghij"), min_size=1), st.integers(0, 5))
def test_a_video_is_never_cut(videos: list[str], seed: int) -> None:
    splits = random_70_15_15(videos, seed)
    assert len(splits) == len(videos)
    assert len(set(zip(videos, splits.tolist(), strict=True))) == len(set(videos))


@pytest.mark.parametrize("seed", range(3))
def test_neither_order_nor_length_of_videos_matters(seed: int) -> None:
    videos = corpus(40)
    whole = dict(zip(videos, random_70_15_15(videos, seed), strict=True))
    mixed = np.random.default_rng(0).permutation(videos).tolist()[10:] + videos[::3]
    assert dict(zip(mixed, random_70_15_15(mixed, seed), strict=True)) == whole
    assert random_70_15_15(iter(videos), seed).tolist() == [whole[v] for v in videos]


@pytest.mark.parametrize(
    ("videos", "expected"), [(100, (70, 15, 15)), (93, (65, 14, 14)), (20, (14, 3, 3))]
)
def test_proportions_are_those_of_the_paper(videos: int, expected: tuple[int, ...]) -> None:
    count = Counter(random_70_15_15(corpus(videos, clips=1), 0).tolist())
    assert (count["train"], count["valid"], count["test"]) == expected


def test_seed_chooses_the_split() -> None:
    splits = [random_70_15_15(corpus(100), seed).tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_another_video_moves_only_what_lies_at_the_cuts() -> None:
    fewer, more = corpus(100, clips=1), corpus(101, clips=1)
    moved = (random_70_15_15(fewer, 0) != random_70_15_15(more, 0)[:100]).sum()
    assert moved <= 2


def test_split_is_the_same_on_every_machine() -> None:
    """Results in tables depend on it: written down once, never to change."""
    splits = random_70_15_15("abcdefghij", 0).tolist()
    assert [s[:2] for s in splits] == ["tr", "te", "va", "tr", "te", "tr", "tr", "tr", "tr", "tr"]
