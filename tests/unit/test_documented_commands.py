"""Every command in documents and Makefile composes: no option in them is misspelt or gone."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

from msa_lightning.config import CONF, _quote_paths

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/cluster.md", "notebooks/README.md", "experiments/*/README.md")
MAKE = re.compile(r"^\t-?msa-(\w+) (.*)", re.M)
COMMAND = re.compile(r"^(?:\S*srun )?msa-(\w+) (.*)")


def documented() -> list[tuple[str, str]]:
    """Name and arguments of the commands in blocks of code."""
    commands = []
    for path in (p for page in PAGES for p in sorted(ROOT.glob(page))):
        blocks = re.findall(r"^```\w+\n(.*?)^```", path.read_text(), re.M | re.S)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        commands += [(m[1], re.sub("<[^>]*>", "x", m[2])) for m in map(COMMAND.match, lines) if m]
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ").replace("$(BIN)/", "")
    for name, value in re.findall(r"^(\w+) := (.*)", makefile, re.M):
        makefile = makefile.replace(f"$({name})", value)
    lines = [(m[1], re.sub(r'"[^"]*\$\$[^"]*"', "run=x", m[2])) for m in MAKE.finditer(makefile)]
    return commands + [(name, rest.split(" > ")[0]) for name, rest in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), documented())
def test_documented_commands_compose(name: str, arguments: str) -> None:
    given = [a for a in shlex.split(arguments, comments=True) if a not in ("-m", "--help")]
    overrides = []
    for override in OverridesParser.create().parse_overrides(_quote_paths(given)):
        if not override.is_sweep_override():
            overrides.append(override.input_line)
        elif isinstance(override.value(), ChoiceSweep | RangeSweep):  # not glob(*), interval(0, 1)
            value = next(iter(override.sweep_string_iterator()))
            overrides.append(f"{override.get_key_element()}={value}")
    with initialize_config_dir(CONF, version_base="1.3"):
        assert compose(name, overrides, return_hydra_config=True)


def test_there_are_documented_commands() -> None:
    assert len(documented()) > 30
