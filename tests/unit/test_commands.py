"""What the command line gives to a command, and the exit codes that come back."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from msa_lightning import config
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from tests.unit.conftest import Run


def test_importing_a_command_imports_neither_torch_nor_lightning() -> None:
    code = "import sys, msa_lightning.train; print([m for m in sys.modules if 'torch' in m])"
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(config.CONF).parent, check=True
    )
    assert found.stdout.strip() == "[]"


PATHS = [
    "/data/my runs/run 1",
    "runs/[final]/(best) {x}",
    "runs/a,b",
    "runs/lr=0.1,seed=3",
    '/it\'s/a "quoted" path',
    r"C:\runs\last" + "\\",
    r"back\'slash",
    "runs/*",
    "~/runs",
    "-dash: colon$ #hash!",
    "123",
    "true",
    "naïve/走る",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["run", "base", "input", "paths.data", "adapters.text", "+out"])
def test_path_survives_the_grammar_of_hydra(path: str, key: str) -> None:
    override = OverridesParser.create().parse_override(config._quote_path(f"{key}={path}"))
    assert override.key_or_group == key.lstrip("+")
    assert override.value() == path


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab /\\'\"[](){},=:.$*~!#@-_%é", min_size=1))
def test_any_path_survives_the_grammar_of_hydra(path: str) -> None:
    path = f"x{path}"
    override = OverridesParser.create().parse_override(config._quote_path(f"run={path}"))
    assert override.value() == path


@pytest.mark.parametrize(
    "argument",
    ["optimizer.lr=[1,2]", "model=base", "run='a b'", 'run="a,b"', "run=", "-m", "--config-name"],
)
def test_other_arguments_are_left_alone(argument: str) -> None:
    assert config._quote_path(argument) == argument


def test_a_sweep_over_paths_stays_a_sweep(tmp_path: Path) -> None:
    sweep = ["-m", "base=runs/a,runs/b"]
    assert config._quote_paths(sweep) == sweep
    (tmp_path / "a,b").mkdir()
    assert config._quote_paths(["-m", f"base={tmp_path}/a,b"])[1] == f"base='{tmp_path}/a,b'"


# Commands


@pytest.mark.parametrize("path", ["runs/[a] (b), c=d", r"it's \here"])
def test_command_gets_the_path_it_was_given(run: Run, path: str) -> None:
    seen: list[DictConfig] = []
    assert run(seen.append, f"run={path}") == 0
    assert seen[0].run == path


@pytest.mark.parametrize("error", [ConfigError, DataError, DataNotFoundError])
def test_fault_of_the_user_is_one_line_and_code_2(
    run: Run, capsys: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    def main(cfg: DictConfig) -> None:
        raise error("mosei.h5: expected this, found that; do so")

    assert run(main, "run=x") == 2
    assert capsys.readouterr().err == "error: mosei.h5: expected this, found that; do so\n"


def test_fault_of_the_job_is_code_1(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda cfg: 1 / 0, "run=x") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_misspelt_override_keeps_the_message_of_hydra_and_code_1(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lambda cfg: None, "divice=cpu") == 1
    assert "Could not override 'divice'" in capsys.readouterr().err


def test_sweep_carries_on_after_a_fault_of_the_user(run: Run) -> None:
    seen: list[str] = []

    def main(cfg: DictConfig) -> None:
        seen.append(cfg.device)
        if cfg.device == "b":
            raise ConfigError("no b")

    assert run(main, "-m", "run=x", "device=a,b,c") == 2
    assert seen == ["a", "b", "c"]
