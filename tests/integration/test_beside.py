"""Adapters that are trained one beside the other, with the task loss."""

import math
from pathlib import Path

import pytest

from msa_lightning.errors import ConfigError, DataError
from msa_lightning.run import LoadedRun, load_run
from tests.integration.bench import Bench, assert_equal, content, weights

TASK = "alignment=task"
LONGER = (TASK, "trainer.max_epochs=60", "optimizer.lr=0.01")


@pytest.fixture(scope="module")
def text(bench: Bench) -> LoadedRun:
    return bench.adapt(bench.folder / "task_text", TASK)


@pytest.mark.slow
def test_an_adapter_learns_beside_another_what_is_left(bench: Bench, tmp_path: Path) -> None:
    errors = {}
    for alone in (0, 1):
        run = bench.transfer(tmp_path / str(alone), *LONGER, f"alone={alone}")
        errors[alone] = run.metrics["train"]["mae"]
    assert errors[0] < 0.8 * errors[1]  # together, two adapters that each give all give too much


def test_always_alone_is_beside_nothing(bench: Bench, text: LoadedRun, tmp_path: Path) -> None:
    def audio(name: str, *overrides: str) -> LoadedRun:
        return bench.adapt(tmp_path / name, TASK, *overrides, modality="audio")

    beside = f"beside.text={text.dir}"
    never = weights(audio("never").dir)
    assert_equal(never, weights(audio("alone", beside, "alone=1").dir))
    seen = weights(audio("beside", beside, "alone=0").dir)
    assert seen.keys() == never.keys()  # the other adapter is not in the checkpoint
    with pytest.raises(AssertionError):
        assert_equal(never, seen)


@pytest.mark.slow
def test_the_other_adapter_stays_as_it_is(bench: Bench, text: LoadedRun, tmp_path: Path) -> None:
    before = content(text.dir)
    run = bench.adapt(tmp_path / "a", TASK, f"beside.text={text.dir}", modality="audio")
    assert content(text.dir) == before
    assert run.provenance["data"]["builds_on"].keys() == {str(bench.base), str(text.dir)}


@pytest.mark.slow
def test_its_data_are_what_it_was_trained_on(bench: Bench, tmp_path: Path) -> None:
    run = bench.transfer(tmp_path / "t", TASK)
    for m, known in (("text", ["text"]), ("audio", ["text", "audio"])):
        datamodule = load_run(run.dir / "adapters" / m).datamodule
        assert list(datamodule.dataset("train").features) == known


def test_a_transfer_trains_each_beside_those_before(bench: Bench, tmp_path: Path) -> None:
    run = bench.transfer(tmp_path / "t", TASK)
    folders = {m: run.dir / "adapters" / m for m in ("text", "audio")}
    assert not any(load_run(folders["text"]).cfg.beside.values())
    assert load_run(folders["audio"]).cfg.beside.text == str(folders["text"])
    given = bench.transfer(tmp_path / "given", TASK, f"adapters.audio={folders['audio']}")
    own = load_run(given.dir / "adapters" / "text")
    assert own.cfg.beside.audio == str(folders["audio"])


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["transductive=true", "control=shuffled", "share=0.5"])
def test_it_goes_together_with_other_settings(bench: Bench, tmp_path: Path, setting: str) -> None:
    run = bench.transfer(tmp_path / "t", TASK, setting)
    audio = load_run(run.dir / "adapters" / "audio")
    assert audio.cfg.beside.text == str(run.dir / "adapters" / "text")
    assert math.isfinite(run.metrics["test"]["mae"])


def test_without_the_task_loss_the_others_do_not_matter(moved: LoadedRun) -> None:
    for m in ("text", "audio"):
        assert not any(load_run(moved.dir / "adapters" / m).cfg.beside.values())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["alignment=mse", "modality=audio"], "matter to the task loss alone; .* beside.text"),
        (["modality=text"], "beside.text: is what this run trains"),
        (["modality=audio", "alone=2"], "alone: 2 is not a share of the batches"),
        (["modality=audio", "beside.text={base}"], "beside.text: .* is no adapter"),
        (["modality=audio", "base={prepared}"], "this text adapter was trained for another target"),
    ],
)
def test_bad_neighbours(
    bench: Bench,
    text: LoadedRun,
    prepared_base: Path,
    tmp_path: Path,
    overrides: list[str],
    message: str,
) -> None:
    known = {"base": bench.base, "prepared": prepared_base}
    given = [override.format(**known) for override in overrides]
    with pytest.raises((ConfigError, DataError), match=message):
        bench.adapt(tmp_path / "a", TASK, f"beside.text={text.dir}", *given)
    assert not (tmp_path / "a").exists()
