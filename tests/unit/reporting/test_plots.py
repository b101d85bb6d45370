"""Figures show the numbers they are given, as text that a page can colour."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from msa_lightning.reporting import plots


def frame(*rows: tuple[float, ...]) -> pd.DataFrame:
    """Label, then the predictions of each seed."""
    table = pd.DataFrame(rows, dtype="float32").rename(columns={0: "label"})
    table.insert(1, "mean", np.float32(0.5))
    return table


def test_confusion_pools_the_seeds_in_percent_of_the_true_class() -> None:
    figure = plots.draw_confusion({"a": frame((0, 0, 1), (0, 1, 1), (2, 2, 2))}, range(3))
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["25", "75", "0", "none", "none", "none", "0", "0", "100"]
    assert figure.axes[0].get_title() == "a"


def test_a_diverged_seed_is_left_out_of_the_fit() -> None:
    figure = plots.draw_fit({"a": frame((1.0, 2.0, np.nan), (3.0, 2.5, np.nan))})
    upper, lower = figure.axes
    assert upper.collections[0].get_offsets().tolist() == [[1, 2], [3, 2.5]]
    assert lower.collections[0].get_offsets().tolist() == [[2, 1], [2.5, -0.5]]


def test_learning_curves_are_means_of_the_seeds_that_still_train() -> None:
    histories = [pd.DataFrame({"train/loss": x}) for x in ([4.0, 2.0], [2.0])]
    figure = plots.draw_learning({"a": histories})
    assert figure is not None
    assert figure.axes[0].lines[0].get_ydata().tolist() == [3, 2]
    assert [axes.get_title() for axes in figure.axes] == ["train/loss"]
    assert plots.draw_learning({"a": [], "b": [pd.DataFrame({"lr": [1.0]})]}) is None


def test_panels_of_validation_stand_below_those_of_training() -> None:
    columns = ["train/mae", "valid/mae", "train/loss", "train/loss_x", "valid/loss", "lr"]
    history = pd.DataFrame(np.ones((3, 6)), columns=columns)
    figure = plots.draw_learning({"a": [history]})
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["train/mae", "train/loss", "valid/mae", "valid/loss"]


@pytest.mark.parametrize("groups", [1, 5])
def test_every_group_has_its_panels(groups: int) -> None:
    frames = {f"g{i}": frame((0, 1), (1, 0)) for i in range(groups)}
    figure = plots.draw_fit(frames)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == list(frames)
    assert len(figure.axes) == 2 * groups


def test_svg_takes_the_colour_of_the_page_and_text_stays_text(tmp_path: Path) -> None:
    figure = plots.draw_confusion({"$a<b>$": frame((0, 1), (1, 0))}, range(2))
    drawing = plots.svg(figure)
    root = ElementTree.fromstring(drawing)
    assert "$a<b>$" in "".join(root.itertext())
    assert "currentColor" in drawing
    assert "<script" not in drawing
    plots.save(figure, drawing, tmp_path / "new" / "figure")
    assert drawing == plots.svg(plots.draw_confusion({"$a<b>$": frame((0, 1), (1, 0))}, range(2)))
    png = imread(tmp_path / "new" / "figure.png")
    assert png[0, 0].tolist() == [1, 1, 1, 1]
    ElementTree.parse(tmp_path / "new" / "figure.svg")
    assert len(list((tmp_path / "new").iterdir())) == 2
