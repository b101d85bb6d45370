"""The notebooks, executed on runs that are made here."""

import ast
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from msa_lightning.evaluate import evaluate
from tests.integration.bench import Bench
from tests.integration.conftest import Train

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
Execute = Callable[..., dict[str, str]]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Run a notebook with other parameters; what each cell shows, by the cell's id."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(name: str, **parameters: object) -> dict[str, str]:
        notebook = read(ROOT / "notebooks" / f"{name}.ipynb")
        cell = parameter_cell(notebook)
        values = [f"{key} = {value!r}" for key, value in parameters.items()]
        cell.source = "\n".join([cell.source, *values])
        place = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=place).execute()
        return {cell.id: shown(cell) for cell in code_cells(notebook)}

    return run


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameter_cell(notebook: Any) -> Any:
    [cell] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    return cell


def shown(cell: Any) -> str:
    """Printed and displayed text; a picture is ``<picture>``."""
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts.append("<picture>" if "image/png" in data else data.get("text/plain", ""))
        parts.append(output.get("text", "") if output.get("name") == "stdout" else "")
    return "\n".join(filter(None, parts))


def pictures(cells: dict[str, str]) -> set[str]:
    return {name for name, text in cells.items() if "<picture>" in text}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    left = [c.id for c in code_cells(notebook) if c.outputs or c.execution_count is not None]
    assert not left, "clear all outputs before you commit"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_runs_and_reporting_alone(path: Path) -> None:
    source = "\n".join(cell.source for cell in code_cells(read(path)))
    tree = ast.parse(source.replace("%matplotlib inline", ""))
    modules = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = {module for module in modules if module.startswith("msa_lightning")}
    assert own
    assert all(m == "msa_lightning.run" or m.startswith("msa_lightning.reporting") for m in own)
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not {name for name in attributes if name.startswith("_")}
    assert not attributes & {"read_csv", "read_parquet", "read_text", "open"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_code_cell_says_which_runs(path: Path) -> None:
    notebook = read(path)
    first = code_cells(notebook)[0]
    assert first is parameter_cell(notebook)
    values = [ast.literal_eval(n.value) for n in ast.parse(first.source).body]
    assert str(values[0]).startswith("../runs/demo")


@pytest.mark.slow
def test_a_run_is_explored(execute: Execute, train_demo: Train) -> None:
    run = train_demo("a")
    cells = execute("1_explore_a_run", RUN=str(run.dir))
    assert pictures(cells) == {"history", "fit"}
    assert "valid/corr" in cells["selection"]
    assert f"{run.metrics['valid']['mae']:.3f}" in cells["metrics"]
    assert float(cells["predict"].split()[-1]) < 1e-6  # from what is stored
    nothing, *masked = [line.split() for line in cells["masking"].splitlines()[2:]]
    assert nothing[:2] == ["nothing", f"{run.metrics['valid']['mae']:.3f}"]
    assert [line[0] for line in masked] == ["text", "audio", "visual"]
    assert all(line[1:] != nothing[1:] for line in masked)


@pytest.mark.slow
def test_a_sweep_is_compared(execute: Execute, train_demo: Train, tmp_path: Path) -> None:
    for modalities in ("text", "text_audio"):
        for seed in (0, 1):
            settings = (f"modalities={modalities}", f"seed={seed}")
            run = train_demo(f"sweep/{modalities}{seed}", *settings)
            evaluate(run, device="cpu", again=False)
    train_demo("sweep/unfinished", "modalities=audio")  # never evaluated
    cells = execute("2_compare_a_sweep", RUNS=str(tmp_path / "sweep"))
    assert pictures(cells) == {"figure", "pairs"}
    assert "unfinished: not scored on test" in cells["runs"]
    assert [line.split()[0] for line in cells["table"].splitlines()[2:]] == [
        "text",
        "text+audio",
        "mean",
    ]
    assert cells["words"].count("text+audio vs text: ") == 2  # two metrics
    assert "Gain in test/mae over the mean predictor" in cells["words"]
    assert len(cells["clips"].splitlines()) == 12  # header, index, ten clips
    assert cells["gain"].splitlines()[-1].startswith("text+audio")


@pytest.mark.slow
def test_adapters_are_inspected(execute: Execute, bench: Bench) -> None:
    folder = bench.folder / "transfers"
    for method in ("random", "task", "oracle"):
        bench.transfer(folder / method, f"method={method}")
    cells = execute("3_inspect_adapters", TRANSFERS=str(folder))
    assert pictures(cells) == {"collapse", "distance", "map", "fit", "methods"}
    rows = [line.split()[-1] for line in cells["runs"].splitlines()[1:]]
    assert rows == ["1", "1", "1"]
    spread = [line.split()[0] for line in cells["spread"].splitlines()[1:]]
    assert spread == ["random", "task"]  # the oracle has no adapters
    assert "over the mean predictor" in cells["methods"]
    assert "test_text/mae" in cells["subsets"]
