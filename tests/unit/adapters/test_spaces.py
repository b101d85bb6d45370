"""Where the source's clips can be had in the base run's feature space."""

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from msa_lightning.adapters.spaces import counterpart, known_to_base
from msa_lightning.errors import ConfigError


def data(corpus: str | None, **settings: Any) -> SimpleNamespace:
    """What is asked of a datamodule."""
    table = {"table": SimpleNamespace(corpus=corpus)} if corpus else {}
    return SimpleNamespace(dims={"text": 3, "audio": 4}, **table, **settings)


def base_run(corpus: str | None, node: dict[str, Any]) -> Any:
    return SimpleNamespace(
        dir="base", cfg=OmegaConf.create({"data": node}), datamodule=data(corpus)
    )


def raw(folder: str, extractor: str) -> dict[str, Any]:
    return {
        "source": {"folder": folder},
        "extraction": {"extractors": extractor, "modalities": ["text", "audio"], "cache": "c"},
        "prepared": f"{folder}/prepared",
        "modalities": ["text", "audio"],
        "targets": {},
        "split": "official",
        "split_seed": 0,
        "granularity": "segment",
        "normaliser": "standard",
    }


def test_raw_clips_go_through_the_extractors_of_the_base() -> None:
    source = OmegaConf.create(raw("new", "real-time") | {"split_seed": 3, "normaliser": "robust"})
    found = counterpart(base_run("a", raw("old", "slow")), source, data("b"), ["audio"])
    assert found is not None
    assert found.source.folder == "new"
    assert found.extraction.extractors == "slow"
    assert found.split_seed == 3
    assert found.normaliser == "standard"
    assert found.modalities == found.extraction.modalities == ["audio"]  # nothing else is extracted


def test_references_to_paths_stay_as_they_are() -> None:
    whole = OmegaConf.create({"paths": {"cache": "/here"}, "data": raw("new", "fast")})
    whole.data.extraction.cache = "${paths.cache}"
    found = counterpart(base_run("a", raw("old", "slow")), whole.data, data("b"), ["text"])
    assert found is not None
    assert OmegaConf.to_container(found, resolve=False)["extraction"]["cache"] == "${paths.cache}"  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("mine", "other", "there"), [("a", "a", True), ("a", "b", False), (None, None, False)]
)
def test_a_file_has_clips_of_its_own_corpus_alone(
    mine: str | None, other: str | None, there: bool
) -> None:
    """Two corpora may well have clips with the same ids."""
    run = base_run(mine, {"path": "a.h5", "modalities": ["text", "audio"]})
    found = counterpart(run, DictConfig(raw("new", "fast")), data(other), ["text"])
    assert (found is not None) == there
    if found is not None:
        assert found.path == "a.h5"
        assert found.modalities == ["text"]


def test_modalities_that_a_base_does_not_know() -> None:
    known_to_base(base_run("a", {}), ["text"])
    with pytest.raises(ConfigError, match="visual: base was trained on text, audio alone"):
        known_to_base(base_run("a", {}), ["text", "visual"])
