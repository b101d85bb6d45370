"""The page holds everything, escapes what is not its own, and claims what the tables claim."""

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf

from msa_lightning.records import read_metrics, write_json
from msa_lightning.reporting import adapters, document, tables
from msa_lightning.reporting.collect import Runs, collect
from msa_lightning.reporting.document import Findings, Wanted, choose, differences, write_page

MakeRun = Callable[..., Path]
METRICS = ["test/mae", "test/corr"]


def wanted(**changes: object) -> Wanted:
    facts = {"title": "t", "metrics": METRICS, "split": "test", "groups": 8, "reference": "text"}
    return Wanted(**{**facts, "clips": 1000, **changes})  # type: ignore[arg-type]


def find(runs: Runs, metrics: list[str], **more: object) -> Findings:
    scores, baselines, _ = tables.bootstrap(runs, metrics, by="video", resamples=100, seed=0)
    summary = tables.summarise(runs.table, metrics, scores, baselines)
    comparisons, _ = tables.compare(scores, baselines, metrics, "text")
    measured = adapters.summarise(runs.adapters())
    return Findings(runs, summary, comparisons, measured, ["a note"], **more)  # type: ignore[arg-type]


class Page(HTMLParser):
    """Tables of a page, and what it would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text()
        self.tables: list[list[list[str]]] = []
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loaded += [v or "" for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def test_the_page_says_what_was_found_and_loads_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    for m, seeds in (("text", (0, 1)), ("audio", (0, 1)), ("text_audio", (0,))):
        for seed in seeds:
            folder = make_run(f"{m}-{seed}", f"modalities={m}", seed=seed, noise=len(m) / 4)
            history = pd.DataFrame({"train/loss": [2.0, 1.0], "valid/loss": [2.0, 1.5]})
            history.to_csv(folder / "history.csv", index_label="epoch")
    left = shutil.copytree(folder, folder.with_name("left <over>"))
    (left / "metrics.json").unlink()
    path = folder / "predictions.parquet"
    evil = "<script>alert(1)</script>_0"
    for run in folder.parent.glob("*-*"):
        stored = pd.read_parquet(run / "predictions.parquet")
        stored.replace({"id": {"video_0_0": evil}}).to_parquet(run / path.name)
    runs = collect(str(folder.parent))
    said = {evil: "<img src=x onerror=alert(2)>", "video_1_1": "plainly said"}
    found = find(runs, METRICS, transcripts=said)
    write_page(found, wanted(clips=100), tmp_path / "runs")

    page = Page(tmp_path / "runs" / "report.html")
    assert page.open == []
    assert [link for link in page.loaded if not link.startswith(("#", "data:"))] == []
    assert re.findall(r"url\((?!#)|@import|https?://(?!www\.w3\.org|purl\.org)", page.text) == []
    assert page.text.count("<script>") == 1
    assert "<img src" not in page.text
    assert page.text.count("<svg ") == 4
    assert "a note" in page.text

    results, settings, comparisons, listed, failed, every = page.tables
    assert [row[0] for row in results[1:]] == ["text", "audio", "text+audio", "mean predictor"]
    assert settings[1] == ["modalities", "text", "audio", "text+audio"]
    verdicts = [tables.verdict(row) for _, row in found.comparisons.iterrows()]
    assert [row[-1] for row in comparisons[1:]] == verdicts
    assert "not tested" in verdicts
    assert "significan" not in page.text
    columns = ["clip", "label", "error", "disagreement", "transcript", *runs.groups]
    assert [name.strip() for name in listed[0]] == columns
    assert {row[0]: row[4] for row in listed[1:]}[evil] == said[evil]
    assert len(listed) == 101
    assert "Listed are 100 of 120 clips; clips_sentiment.csv has all." in page.text
    assert failed[1][0] == str(left)
    assert failed[1][1].startswith("no metrics.json")
    assert "<li>text+audio: no run of seed 1</li>" in page.text
    assert len(every) == 6
    as_csv = pd.read_csv(tmp_path / "runs" / "clips_sentiment.csv", index_col="clip")
    assert len(as_csv) == 120
    assert as_csv["disagreement"].round(2).tolist()[:100] == [float(row[3]) for row in listed[1:]]


def test_classes_have_a_confusion_and_a_most_frequent_one(
    make_run: MakeRun, configure: Callable[..., DictConfig], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    objective = configure("train", "objective=emotion", "loss=cross_entropy").objective
    for m in ("text", "audio"):
        folder = make_run(m, f"modalities={m}", seed=0)
        cfg = OmegaConf.load(folder / "config.yaml")
        cfg.objective = OmegaConf.to_container(objective, resolve=True)
        OmegaConf.save(cfg, folder / "config.yaml")
        frame = pd.read_parquet(folder / "predictions.parquet").assign(target="emotion")
        frame["label"] = np.float32([i * i % 8 for i in range(len(frame))])
        frame["prediction"] = np.float32(generator.integers(8, size=len(frame)))
        frame.to_parquet(folder / "predictions.parquet")
        test, train = (frame[frame["split"] == split] for split in ("test", "train"))
        common = train["label"].mode()[0]
        write_json(
            folder / "metrics.json",
            read_metrics(folder) | {
                "test": {"acc": (test["label"] == test["prediction"]).mean()},
                "test_mean_predictor": {"acc": (test["label"] == common).mean()},
            },
        )  # fmt: skip
    runs = collect(str(folder.parent))
    found = find(runs, ["test/acc"])
    summary = found.summary.set_index("group").loc["mean predictor"]
    assert summary["low"] < summary["mean"] < summary["high"]
    scores = tables.bootstrap(runs, ["test/acc"], by="video", resamples=100, seed=0)[0]
    [chance] = tables.chance(runs, ["test/acc"], scores).to_dict("records")
    assert chance["mean"] == pytest.approx(1 / 8, abs=0.004)  # 120 clips, 1000 guesses each
    write_page(found, wanted(metrics=["test/acc"]), tmp_path)
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == {"results", "confusion_emotion"}
    listed = pd.read_csv(tmp_path / "clips_emotion.csv")
    assert set(listed["disagreement"]) == {0, 1}
    assert set(listed["label"]) == {"neutral", "calm", "angry"}  # squares modulo 8
    assert "surprised" in (tmp_path / "figures" / "confusion_emotion.svg").read_text()
    assert listed["error"].equals((listed["text"] != listed["label"]).astype(float))


def test_a_number_with_a_name_stays_a_number(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("run")
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.objective.targets.sentiment.names = ["sentiment"]
    OmegaConf.save(cfg, folder / "config.yaml")
    write_page(find(collect(str(folder)), ["test/mae"]), wanted(metrics=["test/mae"]), tmp_path)
    listed = pd.read_csv(tmp_path / "clips_sentiment.csv")
    assert listed["label"].nunique() > 100


def test_a_numeric_setting_is_drawn_as_a_curve(make_run: MakeRun, tmp_path: Path) -> None:
    for rate in (0.001, 0.01, 0.1):
        make_run(f"rate{rate}", f"optimizer.lr={rate}", noise=1 - rate)
    folder = make_run("other", "optimizer.lr=0.001", "modalities=text")
    runs = collect(str(folder.parent))
    [(setting, lines)] = document.curves(runs).items()
    [groups] = lines.values()
    assert setting == "optimizer.lr"
    assert list(groups) == [0.001, 0.01, 0.1]
    assert len({*groups.values()}) == 3
    assert not any(name == "text" for name in groups.values())
    write_page(find(runs, METRICS), wanted(), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "differ in optimizer.lr alone" in page
    assert (tmp_path / "figures" / "over_optimizer.lr.png").is_file()


def test_a_weight_that_is_stored_twice_is_drawn_once(make_run: MakeRun) -> None:
    for weight in (1.0, 5.0, 10.0):
        folder = make_run(f"w{weight}", f"loss.weights.absolute={weight}")
    [setting] = document.curves(collect(str(folder.parent)))
    assert setting == "loss.weights.absolute"


def test_two_values_are_no_curve(make_run: MakeRun) -> None:
    for rate in (0.001, 0.01):
        folder = make_run(f"rate{rate}", f"optimizer.lr={rate}")
    assert not document.curves(collect(str(folder.parent)))


@pytest.mark.slow
def test_runs_that_cannot_be_read_are_noted(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("text", "modalities=text")
    folder = make_run("audio", "modalities=audio")
    runs = collect(str(folder.parent))
    found = find(runs, METRICS)
    (folder / "predictions.parquet").write_bytes(b"cut")
    write_page(found, wanted(), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "audio: sentiment is not shown: " in text
    assert "Every folder found holds a finished run." in text


@pytest.mark.slow
def test_without_a_split_there_are_no_clips(make_run: MakeRun, tmp_path: Path) -> None:
    runs = collect(str(make_run("run")))
    found = find(runs, ["train/mae"])
    write_page(found, wanted(split=None, metrics=[]), tmp_path)
    assert [path.name for path in tmp_path.glob("*.*")] == ["report.html"]
    assert "Nothing was compared." in (tmp_path / "report.html").read_text()


def test_the_groups_that_are_drawn_are_selected_on_validation(make_run: MakeRun) -> None:
    first = make_run("first", "modalities=text")
    config = (first / "config.yaml").read_text()
    for number, corr in enumerate([0.3, 0.9, None, 0.5, 0.8]):
        folder = shutil.copytree(first, first.with_name(f"{number}"))
        (folder / "config.yaml").write_text(config.replace("lr: 0.0008", f"lr: 0.{number + 1}"))
        write_json(folder / "metrics.json", read_metrics(folder) | {"valid": {"corr": corr}})
    runs = collect(str(first.parent / "?"))
    name = "optimizer.lr=0.{}".format
    assert choose(runs, 5, None) == (runs.groups, "")
    groups, why = choose(runs, 3, None)
    assert groups == [name(2), name(4), name(5)]
    assert why == "Of 5 groups the 3 with the best valid/corr are shown here."
    assert choose(runs, 3, name(1))[0] == [name(1), name(2), name(5)]
    table = runs.table.drop(columns="valid/corr")
    unscored = document.Runs(table, runs.loaded, {}, runs.settings)
    assert choose(unscored, 2, None)[0] == [name(1), name(2)]


def test_differences_are_those_of_the_groups_shown(make_run: MakeRun) -> None:
    make_run("a", "modalities=text")
    make_run("b", "modalities=text", "optimizer.lr=0.5")
    folder = make_run("c", "modalities=audio")
    runs = collect(str(folder.parent))
    groups = ["text", "text, optimizer.lr=0.5"]
    shown = differences(runs, groups)
    assert shown.to_numpy().tolist() == [["optimizer.lr", "0.0008", "0.5"]]
    assert list(shown) == ["setting", *groups]
