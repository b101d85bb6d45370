"""What a prepared file must hold, and what a split may not give."""

import re
from pathlib import Path

import numpy as np
import pytest

from msa_lightning import MODALITIES
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from tests.unit.datamodules.corpus import DIMS, Corpus, Load, whole


@pytest.mark.parametrize("granularity", ["segment", "video"])
@pytest.mark.parametrize("poison", [np.nan, 99.0])
def test_fit_never_reads_the_test_split(
    load: Load, corpus: Corpus, poison: float, granularity: str
) -> None:
    clips = corpus.at("test")
    for values in corpus.targets.values():
        values[clips] = poison
    for m in MODALITIES:
        for i in clips:
            corpus.rows[m][i][:] = np.nan
    datamodule = load(corpus, granularity=granularity)
    datamodule.setup("fit")
    assert datamodule.fit_splits == ["train", "valid"]
    with pytest.raises(DataError, match=f"targets/sentiment of clip {corpus.ids[clips[0]]} is"):
        datamodule.setup("test")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_required_label_is_never_nan(load: Load, corpus: Corpus, split: str) -> None:
    corpus.targets["emotions"][corpus.at(split)[0], 3] = np.nan
    with pytest.raises(DataError, match=r"tiny\.h5: targets/emotions of clip .* nan.*\[0, 3\]"):
        load(corpus).setup("fit")


def test_optional_label_may_be_nan(load: Load, corpus: Corpus) -> None:
    corpus.targets["emotions"][corpus.at("train")[0]] = np.nan
    facts = {"emotions": {"range": [0, 3], "optional": True}}
    datamodule = load(corpus, targets=facts)
    batch = whole(datamodule, "train")
    assert list(batch.targets) == ["emotions"]
    assert batch.targets["emotions"][0].isnan().all()
    assert not batch.targets["emotions"][1:].isnan().any()


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_empty_split(load: Load, corpus: Corpus, split: str) -> None:
    corpus.splits[corpus.at(split)] = "none"
    datamodule = load(corpus)
    with pytest.raises(
        DataError, match=rf"tiny\.h5: no clips in split '{split}'; data\.split is official"
    ):
        datamodule.setup("test" if split == "test" else "fit")


def test_modality_that_the_file_lacks(load: Load, corpus: Corpus) -> None:
    del corpus.rows["audio"]
    message = "modalities asks for audio, but tiny.h5 has no audio; choose modalities=text_visual"
    with pytest.raises(DataError, match=re.escape(message)):
        load(corpus).setup("fit")


@pytest.mark.parametrize("granularity", ["segment", "video"])
def test_modality_that_no_train_clip_has(load: Load, corpus: Corpus, granularity: str) -> None:
    corpus.drop("visual", corpus.at("train").tolist())
    with pytest.raises(DataError, match=r"tiny\.h5: no train clip has visual"):
        load(corpus, granularity=granularity).setup("fit")


def test_dims_that_differ_from_the_config(load: Load, corpus: Corpus) -> None:
    message = (
        "tiny.h5: features/visual has 4 columns, data.dims.visual is 713; set data.dims.visual=4"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        load(corpus, dims=DIMS | {"visual": 713}).setup("fit")


def test_target_that_the_file_lacks(load: Load, corpus: Corpus) -> None:
    with pytest.raises(DataError, match=r"no target 'arousal', found \['emotions', 'sentiment'\]"):
        load(corpus, targets={"arousal": {"range": [0, 1]}}).setup("fit")


def test_file_that_is_not_there(load: Load) -> None:
    with pytest.raises(DataNotFoundError, match=r"tiny\.h5: not found; make it with msa-prepare"):
        load(None).setup("fit")


def test_file_that_is_not_hdf5(load: Load, tmp_path: Path) -> None:
    (tmp_path / "tiny.h5").write_text("not HDF5")
    with pytest.raises(DataError, match=r"tiny\.h5: not a whole HDF5 file"):
        load(None).setup("fit")


@pytest.mark.parametrize(("key", "value"), [("split", "offical"), ("granularity", "clip")])
def test_unknown_choice_is_a_config_error(load: Load, corpus: Corpus, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key}.*{value}"):
        load(corpus, **{key: value})
