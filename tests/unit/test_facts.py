"""Each error names the file, the key, what was found, what was expected, and the remedy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_lightning.datasets.facts import check_dims, check_present, check_split, check_targets
from msa_lightning.errors import DataError

PATH = Path("/somewhere/mosei.h5")
DIMS = {"text": 300, "audio": 74, "visual": 713}
IDS = np.array(["v_0", "v_1", "-w_0"])
LABELS = np.array([[0.5], [-3.0], [3.0]], np.float32)
RANGE = {"sentiment": {"range": [-3, 3]}}


def targets(*values: float, **facts: Any) -> dict[str, np.ndarray]:
    found = {"sentiment": np.array(values, np.float32)[:, None], "other": LABELS}
    return check_targets(PATH, IDS, found, {"sentiment": {"range": [-3, 3], **facts}})


def test_dims_of_the_chosen_modalities_only() -> None:
    found = DIMS | {"visual": 65}
    assert check_dims(PATH, found, DIMS, ["text", "audio"]) == {"text": 300, "audio": 74}


def test_other_number_of_columns() -> None:
    with pytest.raises(DataError) as error:
        check_dims(PATH, DIMS | {"audio": 5}, DIMS, ["text", "audio"])
    assert str(error.value) == (
        "mosei.h5: features/audio has 5 columns, data.dims.audio is 74; "
        "set data.dims.audio=5 if that is meant, or prepare the file again"
    )


def test_modality_that_the_file_lacks() -> None:
    found = {"text": 300, "visual": 713}
    with pytest.raises(DataError) as error:
        check_dims(PATH, found, DIMS, ["text", "audio"])
    assert str(error.value) == (
        "mosei.h5: modalities asks for audio, but mosei.h5 has no audio; "
        "choose modalities=text_visual or another data="
    )


def test_modality_that_the_config_lacks() -> None:
    with pytest.raises(DataError, match=r"asks for audio, but data\.dims has no audio; .*=text "):
        check_dims(PATH, DIMS, {"text": 300}, ["audio"])


def test_targets_inside_their_range_come_back() -> None:
    found = check_targets(PATH, IDS, {"sentiment": LABELS, "other": LABELS}, RANGE)
    assert list(found) == ["sentiment"]
    assert np.array_equal(found["sentiment"], LABELS)


def test_rounding_of_a_mean_rating_is_not_out_of_range() -> None:
    assert np.array_equal(targets(0, 3.000001, -3.000001)["sentiment"].round(3)[1:], [[3], [-3]])


@pytest.mark.parametrize("value", [3.5, 3.001, -4.0, np.inf, -np.inf, np.nan])
def test_label_out_of_range_or_nan(value: float) -> None:
    with pytest.raises(DataError) as error:
        targets(0, value, 99)
    assert str(error.value) == (
        f"mosei.h5: targets/sentiment of clip v_1 is [{np.float32(value)}], "
        "expected a number in [-3, 3] (2 clips are wrong); "
        "mend the labels or, if that is their scale, data.targets.sentiment.range"
    )


def test_only_an_optional_target_may_be_nan() -> None:
    found = targets(0, np.nan, 1, optional=True)
    assert np.isnan(found["sentiment"]).tolist() == [[False], [True], [False]]
    with pytest.raises(DataError, match=r"clip -w_0 is \[4\.0\]"):
        targets(0, np.nan, 4, optional=True)


@pytest.mark.parametrize("value", [np.nan, 9.0])
def test_one_column_of_several_is_enough_to_be_wrong(value: float) -> None:
    found = {"emotions": np.array([[0, 1], [0, value], [0, 0]], np.float32)}
    with pytest.raises(DataError, match=rf"targets/emotions of clip v_1 is \[0\.0, {value}\]"):
        check_targets(PATH, IDS, found, {"emotions": {"range": [0, 3]}})


def test_target_that_the_file_lacks() -> None:
    with pytest.raises(DataError) as error:
        check_targets(PATH, IDS, {"valence": LABELS, "arousal": LABELS}, RANGE)
    assert str(error.value) == (
        "mosei.h5: no target 'sentiment', found ['arousal', 'valence']; "
        "take data.targets.sentiment out with ~data.targets.sentiment"
    )


def test_empty_split() -> None:
    check_split(PATH, "test", 1, "")
    with pytest.raises(DataError) as error:
        check_split(PATH, "test", 0, "try data.split=random_70_15_15")
    assert str(error.value) == (
        "mosei.h5: no clips in split 'test'; try data.split=random_70_15_15"
    )


def test_modality_that_no_train_clip_has() -> None:
    check_present(PATH, "audio", np.array([False, True]))
    with pytest.raises(DataError) as error:
        check_present(PATH, "audio", np.array([False, False]))
    assert str(error.value) == ("mosei.h5: no train clip has audio; choose modalities without it")
