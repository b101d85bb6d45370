"""The demo in small: three modalities, from raw video to the conclusions that it ends with."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from msa_lightning.errors import DataNotFoundError
from msa_lightning.extractors.assets import MINILM, find
from msa_lightning.run import load_run

from .conftest import environment

METHODS = ("random", "task", "direct")
QUICK = ("+train.trainer.max_epochs=3", "trainer.max_epochs=2", "targets=50")


@pytest.mark.slow
def test_the_demo_ends_with_what_was_learnt(tmp_path: Path) -> None:
    try:
        find(MINILM)
    except DataNotFoundError as error:
        pytest.skip(str(error))

    def msa(name: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", f"msa_lightning.{name}", *arguments],
            cwd=tmp_path,
            env=environment(tmp_path / "prepared") | {"COLUMNS": "200"},
            text=True,
            capture_output=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = "make.videos=15"
    msa("prepare", "source=demo", "source.make.videos=30")
    msa("extract", "source=demo_raw", "extractor/text=minilm", f"source.{small}")
    grid = (f"method={','.join(METHODS)}", "seed=0,1", f"data.source.{small}")
    msa("transfer", "-m", "experiment=demo_transfer", *grid, *QUICK)
    runs = [load_run(path) for path in tmp_path.glob("runs/demo_transfer/*")]
    assert len(runs) == len(METHODS) * 2
    subsets = {"text", "audio", "visual", "text_audio", "text_visual", "audio_visual"}
    assert all({f"test_{subset}" for subset in subsets} <= run.metrics.keys() for run in runs)

    [task] = [run.dir for run in runs if (run.cfg.method, run.cfg.seed) == ("task", 0)]
    [video] = tmp_path.glob("prepared/demo_raw/Raw/Video/Segmented/raw_0003_1.mp4")
    msa("predict", f"run={task}", f"input={video}", "text=it was great")
    [scores] = tmp_path.glob("predictions/*/scores.csv")
    [score] = pd.read_csv(scores).to_dict("records")
    assert not any(math.isnan(score[f"contribution_{m}"]) for m in ("text", "audio", "visual"))

    metrics = ["compare=[test/mae]", "metrics=[test/mae,test_text/mae]"]
    said = msa("report", "runs=runs/demo_transfer/*", "out=report", *metrics).splitlines()
    assert said[-len(METHODS) - 1].startswith("Gain in test/mae over the mean predictor")
    verdicts = r"  (works|no evidence|worse) +(\w+): -?\d\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]"
    matches = [re.fullmatch(verdicts, line) for line in said[-len(METHODS) :]]
    assert {match[2] for match in matches if match} == set(METHODS)
    adapters = pd.read_csv(tmp_path / "report" / "adapters.csv")
    assert set(adapters["modality"]) == {"text", "audio", "visual"}
    assert len(adapters) == 3 * 2 * 2  # direct has none
    table = (tmp_path / "report" / "table.md").read_text()
    head = "| group | modality | taught | targets | parameters |"
    assert head in table
    rows = re.findall(r"^\| (random|task) \| (\w+) \| \d+ \| 50 \| ([\d,]+) \|", table, re.M)
    sizes = {"text": "412,716", "audio": "105,034", "visual": "664,265"}
    assert {(method, m, sizes[m]) for method in METHODS[:2] for m in sizes} == set(rows)
    assert 'id="adapters"' in (tmp_path / "report" / "report.html").read_text()
    assert (tmp_path / "report" / "figures" / "results.png").is_file()
