"""Groups are what differs beside the seed, called by as little of it as tells them apart."""

import pytest

from msa_lightning.reporting.groups import Groups, Settings, flat

TAV = ("text", "audio", "visual")


def run(**settings: object) -> Settings:
    return {"modalities": TAV, "seed": 0, **{k.replace("__", "."): v for k, v in settings.items()}}


def names(*settings: Settings) -> list[str]:
    groups = Groups(settings, [s["seed"] for s in settings])
    return [groups.names[i] for i in sorted(range(len(settings)), key=lambda i: groups.ranks[i])]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run(), run(seed=1)], ["text+audio+visual"] * 2),
        ([run(), run(modalities=("text",))], ["text", "text+audio+visual"]),
        ([run(lr=0.1), run(lr=0.01)], ["lr=0.01", "lr=0.1"]),
        (
            [run(modalities=m, **{"data.modalities": m}) for m in (TAV, ("text",))],
            ["text", "text+audio+visual"],
        ),
        (
            [
                run(model___target_="a.b.TFN", model__hidden=4),
                run(model___target_="a.b.MulT", model__hidden=8),
            ],
            ["model=MulT", "model=TFN"],
        ),
        (
            [run(scheduler___target_="x.Plateau", scheduler__mode="max"), run(seed=1)],
            ["scheduler=none", "scheduler=Plateau"],
        ),
        (
            [run(modalities=m, lr=lr) for m in (TAV, ("text",)) for lr in (0.2, 0.1)],
            [f"{m}, lr={lr}" for m in ("text", "text+audio+visual") for lr in (0.1, 0.2)],
        ),
    ],
    ids=["seeds", "modalities", "setting", "copies", "class", "absent", "two settings"],
)
def test_names(runs: list[Settings], expected: list[str]) -> None:
    assert names(*runs) == expected


def test_one_setting_alone_is_preferred_to_many() -> None:
    runs = [run(method=m, alignment__coral=c, share=s) for m, c, s in ("ax1", "bx2", "cy2")]
    assert names(*runs) == ["a", "b", "c"]


def test_what_most_groups_share_is_not_said() -> None:
    runs = [
        run(method="task", share=1.0),
        run(method="random", share=1.0),
        run(method="task", share=0.1),
    ]
    assert set(names(*runs)) == {"task", "random", "task, share=0.1"}
    even = [run(method=m, share=s) for m in ("task", "random") for s in (1.0, 0.1)]
    assert names(*even) == [f"{m}, share={s}" for m in ("random", "task") for s in (0.1, 1.0)]


def test_trained_and_transferred_runs_are_named_apart_and_trained_ones_come_first() -> None:
    transferred = [
        run(method="task", share=1.0, base="x"),
        run(method="random", share=1.0, base="x"),
        run(method="random", share=0.1, base="x"),
    ]
    together = names(*transferred, run(lr=0.1))
    assert together == ["text+audio+visual", "random, share=0.1", "random", "task"]
    more = names(*transferred, run(lr=0.1), run(lr=0.2, modalities=("text",)))
    assert more[:2] == ["text", "text+audio+visual"]
    one = names(run(method="task", share=1.0), run(modalities=("text",)))
    assert one == ["text", "task"]


def test_a_seed_by_another_name_is_none_of_the_settings() -> None:
    runs = [run(seed=s, networks__text__seed=s, data__split_seed=s // 2) for s in (2, 3, 4)]
    assert set(names(*runs)) == {"data.split_seed=1", "data.split_seed=2"}


def test_classes_called_the_same_are_not_taken_for_one_group() -> None:
    runs = [run(model___target_="a.TFN"), run(model___target_="b.TFN", seed=1)]
    assert names(*runs) == ["model=TFN", "model=TFN (2)"]


def test_settings_say_everything_that_differs() -> None:
    runs = [run(method="a", share=1.0, lr=1), run(method="b", share=0.5, lr=1)]
    settings = Groups(runs, [0, 0]).settings
    assert settings.loc["b"].to_dict() == {"method": "b", "share": 0.5}


def test_settings_are_flattened_and_other_runs_stand_for_their_group() -> None:
    nested = {"a": {"b": [1, 2], "c": [{"d": None}]}, "base": "runs/mosei/tfn-seed3-0123abcd"}
    assert flat(nested) == {"a.b": (1, 2), "a.c.0.d": None, "base": "runs/mosei/tfn"}


def test_hundreds_of_groups_are_named_by_what_was_swept() -> None:
    grid = [
        run(optimizer__lr=a / 10, optimizer__weight_decay=b / 10, model__dropout=c / 10)
        for a in range(8)
        for b in range(8)
        for c in range(8)
    ]
    found = names(*grid)
    assert len(set(found)) == 512
    assert found[0] == "optimizer.lr=0.0, model.dropout=0.0, optimizer.weight_decay=0.0"
