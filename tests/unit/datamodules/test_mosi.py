"""Raw media: extracted once, assembled, and from there on the same as prepared features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msa_lightning.datamodules.mosi import MosiDataModule
from msa_lightning.errors import ConfigError, JobError
from msa_lightning.extractors.librosa import LibrosaFeatures
from tests.data.extractors import Bomb
from tests.data.make_raw import CLIPS, make_raw, raw_extraction, raw_source


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def load(corpus: Path, cache: Path, extraction: Any = None, **changes: Any) -> MosiDataModule:
    options: dict[str, Any] = {
        "source": raw_source(corpus),
        "extraction": extraction or raw_extraction(corpus, cache),
        "prepared": str(cache / "prepared"),
        "aggregate": "mean",
        "targets": {"sentiment": {"range": [-3, 3]}},
        "modalities": ["text", "audio"],
        "split": "official",
        "split_seed": 0,
        "granularity": "segment",
        "normaliser": "standard",
        "batch_size": 4,
        "eval_batch_size": 64,
        "seed": 0,
        "num_workers": 0,
        "pin_memory": False,
    }
    return MosiDataModule(**options | changes)


def test_batches_hold_the_normalised_means_of_the_cache(corpus: Path, cache: Path) -> None:
    datamodule = load(corpus, cache)
    assert datamodule.dims == {"text": 3, "audio": 29}
    batch = next(iter(datamodule.ordered_dataloader("train")))
    assert list(batch.ids) == [f"v{v}_{n}" for v in range(6) for n in range(1, CLIPS + 1)]
    manifest = raw_source(corpus).manifest()
    caches = raw_extraction(corpus, cache).caches()
    for m, found in caches.items():
        clips = [clip for clip in manifest.clips if clip.id in batch.ids]
        entries = [found.find(clip) if getattr(clip, m) else None for clip in clips]
        usable = [entry for entry in entries if entry and not entry.reason]
        vectors = np.stack(list(found.read(usable, "vector").values()))
        expected = torch.from_numpy((vectors - vectors.mean(0)) / np.maximum(vectors.std(0), 1e-12))
        varies = torch.from_numpy(vectors.std(0) > 1e-6)
        mask = batch.masks[m][:, 0]
        assert mask.sum() == len(usable) == 11
        torch.testing.assert_close(
            batch.features[m][mask][:, 0][:, varies], expected[:, varies], rtol=1e-3, atol=1e-3
        )


def test_what_could_not_be_used_is_masked_and_says_why(corpus: Path, cache: Path) -> None:
    datamodule = load(corpus, cache)
    batch = next(iter(datamodule.ordered_dataloader("train")))
    ids = np.array(batch.ids)
    missing = {m: ids[~mask[:, 0].numpy()].tolist() for m, mask in batch.masks.items()}
    assert missing == {"text": ["v1_1"], "audio": ["v0_1"]}
    assert datamodule.missing == {
        "text": {"v1_1": "empty transcript"},
        "audio": {"v0_1": "silent"},
    }


def test_sequences_keep_steps_and_padding(corpus: Path, cache: Path) -> None:
    batch = next(iter(load(corpus, cache, aggregate="sequence").ordered_dataloader("test")))
    assert batch.features["text"].shape == (4, 3, 3)
    steps = 1 + int(0.5 * 22050) // 512
    assert batch.masks["audio"].sum(1).tolist() == [steps] * 4


def test_whole_videos(corpus: Path, cache: Path) -> None:
    batch = next(iter(load(corpus, cache, granularity="video").ordered_dataloader("test")))
    assert list(batch.ids) == ["v8", "v9"]


def test_random_split_is_by_video(corpus: Path, cache: Path) -> None:
    datamodule = load(corpus, cache, split="random_70_15_15")
    ids = {s: next(iter(datamodule.ordered_dataloader(s))).ids for s in ("train", "valid")}
    videos = {s: {i.rsplit("_", 1)[0] for i in found} for s, found in ids.items()}
    assert not videos["train"] & videos["valid"]
    assert len(videos["train"]) == 7


def test_a_second_datamodule_extracts_nothing(corpus: Path, cache: Path) -> None:
    load(corpus, cache).prepare_data()
    whole = raw_extraction(corpus, cache).extractors
    bombs = {m: Bomb(extractor) for m, extractor in whole.items()}
    datamodule = load(corpus, cache, raw_extraction(corpus, cache, extractors=bombs))
    assert len(next(iter(datamodule.train_dataloader()))) == 4


def test_another_option_is_another_file(corpus: Path, cache: Path) -> None:
    usual = load(corpus, cache)
    longer = raw_extraction(corpus, cache)
    longer.extractors["audio"] = LibrosaFeatures(size=74, max_s=3.0)
    padded = load(corpus, cache, longer)
    assert padded.dims["audio"] == 74
    assert usual.provenance["digest"] != padded.provenance["digest"]
    assert padded.provenance["extractors"]["audio"]["size"] == 74
    assert padded.provenance["synthetic"] is False


def test_too_many_unusable_clips_stop_training_data(corpus: Path, cache: Path) -> None:
    with pytest.raises(JobError, match="1 of 20 clips cannot be used"):
        load(corpus, cache, raw_extraction(corpus, cache, max_failed=0.0)).prepare_data()


def test_an_unknown_aggregate_is_refused(corpus: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="mean or sequence"):
        load(corpus, cache, aggregate="max")
