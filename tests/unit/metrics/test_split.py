"""Any batching, any sharding: the metrics of a split are those of its samples."""

import copy
import math
import pickle
import warnings
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

import msa_lightning.metrics as metrics
from msa_lightning.metrics import SplitMetrics, acc2_non0, acc7, corr, f1_has0, mae

FUNCTIONS = {"mae": mae, "corr": corr, "acc7": acc7, "acc2_non0": acc2_non0, "f1_has0": f1_has0}


def split(n: int = 101) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(n, generator=generator)
    target[::7] = 0
    return target + torch.randn(n, generator=generator), target


def floats(results: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in results.items()}


def whole(prediction: Tensor, target: Tensor) -> dict[str, float]:
    return floats({name: metric(prediction, target) for name, metric in FUNCTIONS.items()})


def test_uneven_batches_equal_the_whole() -> None:
    prediction, target = split()
    metric = SplitMetrics(FUNCTIONS)
    for batch in zip(prediction.split([64, 36, 1]), target.split([64, 36, 1]), strict=True):
        metric.update(*batch)
    assert floats(metric.compute()) == whole(prediction, target)


@pytest.mark.parametrize(
    ("shape", "target_shape"), [((12,), (12, 1)), ((12, 1), (12,)), ((4, 3, 1),) * 2]
)
def test_predictions_are_flattened(shape: tuple[int, ...], target_shape: tuple[int, ...]) -> None:
    prediction, target = split(12)
    metric = SplitMetrics(FUNCTIONS)
    metric.update(prediction.reshape(shape), target.reshape(target_shape))
    assert floats(metric.compute()) == whole(prediction, target)


@pytest.mark.parametrize("steps", [(), (4,)])
def test_metrics_of_several_values_are_means_over_them(steps: tuple[int, ...]) -> None:
    predictions, targets = zip(*(split(96 * (1 + k))[:2] for k in range(3)), strict=True)
    prediction, target = (torch.stack([x[:96] for x in xs], 1) for xs in (predictions, targets))
    target[5, 1] = target[80, 2] = torch.nan  # rated for the other emotions alone
    metric = SplitMetrics(FUNCTIONS, outputs=3)
    for part in (slice(0, 64), slice(64, 96)):
        metric.update(*(x[part].reshape(-1, *steps, 3) for x in (prediction, target)))
    known = [~y.isnan() for y in target.T]
    each = [whole(p[k], y[k]) for p, y, k in zip(prediction.T, target.T, known, strict=True)]
    found = floats(metric.compute())
    assert found == pytest.approx({n: sum(e[n] for e in each) / 3 for n in FUNCTIONS}, rel=1e-6)


def test_a_metric_undefined_for_one_value_is_undefined() -> None:
    prediction, target = (torch.stack([x, x], 1) for x in split())
    target[:, 1] = 1.0
    metric = SplitMetrics(FUNCTIONS, outputs=2)
    metric.update(prediction, target)
    with pytest.warns(UserWarning, match=": corr$"):
        assert math.isnan(metric.compute()["corr"])


def test_a_value_without_labels_does_not_count() -> None:
    prediction, target = split()[:2]
    metric = SplitMetrics(FUNCTIONS, outputs=2)
    unlabelled = torch.full_like(target, torch.nan)
    metric.update(torch.stack([prediction] * 2, 1), torch.stack([target, unlabelled], 1))
    assert floats(metric.compute()) == whole(prediction, target)


def test_unlabelled_samples_are_dropped() -> None:
    prediction, target = split()
    labelled = torch.arange(len(target)) % 3 > 0
    metric = SplitMetrics(FUNCTIONS)
    masked = target.where(labelled, torch.nan)
    prediction = prediction.where(labelled, torch.nan)  # nor does their prediction matter
    for batch in zip(prediction.split(40), masked.split(40), strict=True):
        metric.update(*batch)
    assert floats(metric.compute()) == whole(prediction[labelled], target[labelled])


def test_half_precision_and_class_indices_become_float32() -> None:
    metric = SplitMetrics({"accuracy": metrics.accuracy, "f1_macro": metrics.f1_macro})
    metric.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 1], dtype=torch.bfloat16))
    assert {t.dtype for t in metric.predictions + metric.targets} == {torch.float32}
    assert floats(metric.compute()) == pytest.approx({"accuracy": 0.75, "f1_macro": 7 / 9})


def test_undecoded_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(4,\).*decode"):
        SplitMetrics(FUNCTIONS).update(torch.zeros(4, 3), torch.zeros(4))


def test_undefined_metrics_are_nan_and_named_in_one_warning() -> None:
    metric = SplitMetrics(FUNCTIONS)
    metric.update(torch.ones(5), torch.zeros(5))
    with pytest.warns(UserWarning, match="n = 5 .*: corr, acc2_non0$") as caught:
        results = floats(metric.compute())
    assert len(caught) == 1
    assert {name for name, value in results.items() if math.isnan(value)} == {"corr", "acc2_non0"}
    assert results["mae"] == 1


def test_defined_metrics_do_not_warn() -> None:
    metric = SplitMetrics(FUNCTIONS)
    metric.update(*split())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("unlabelled", [0, 4])
def test_nothing_labelled_is_nan_everywhere(unlabelled: int) -> None:
    metric = SplitMetrics(FUNCTIONS)
    if unlabelled:
        metric.update(torch.zeros(unlabelled), torch.full((unlabelled,), torch.nan))
    with pytest.warns(UserWarning, match="n = 0 "):
        results = metric.compute()
    assert all(value.isnan() for value in results.values())
    assert results.keys() == FUNCTIONS.keys()


def test_a_diverged_model_has_no_accuracy() -> None:
    prediction, target = split()
    prediction[3] = torch.nan
    metric = SplitMetrics(FUNCTIONS)
    metric.update(prediction, target)
    with pytest.warns(UserWarning, match="1 predictions are NaN"):
        assert all(value.isnan() for value in metric.compute().values())


def test_update_keeps_neither_the_graph_nor_the_networks_output() -> None:
    prediction, target = split()
    output = torch.stack([prediction, prediction], dim=1).requires_grad_()
    metric = SplitMetrics(FUNCTIONS)
    metric.update(output[:, 0], target)
    (held,) = metric.predictions
    assert not held.requires_grad
    assert held.untyped_storage().nbytes() == 4 * len(prediction)
    with torch.no_grad():
        output.zero_()
        target.zero_()
    assert floats(metric.compute()) == whole(*split())


def test_reset_frees_the_split_and_starts_anew() -> None:
    prediction, target = split()
    metric = SplitMetrics(FUNCTIONS)
    for _ in range(2):
        metric.update(torch.randn(50), torch.randn(50))
        held = [weakref.ref(t) for t in metric.predictions + metric.targets]
        metric.compute()
        metric.reset()
        assert not any(reference() is not None for reference in held)
        assert metric.predictions == metric.targets == []
    metric.update(prediction, target)
    assert floats(metric.compute()) == whole(prediction, target)


def test_compute_does_not_end_the_accumulation() -> None:
    prediction, target = split()
    metric = SplitMetrics(FUNCTIONS)
    metric.update(prediction[:60], target[:60])
    assert floats(metric.compute()) == whole(prediction[:60], target[:60])
    metric.update(prediction[60:], target[60:])
    assert floats(metric.compute()) == whole(prediction, target)


def test_copies_and_pickles_keep_the_samples() -> None:
    metric = SplitMetrics(FUNCTIONS)
    metric.update(*split())
    assert floats(copy.deepcopy(metric).compute()) == whole(*split())
    assert floats(pickle.loads(pickle.dumps(metric)).compute()) == whole(*split())


# Two DDP ranks share 101 samples in another order; a case says how many of them rank 0 has.
SHARDS = {"uneven": 70, "one sample": 1, "rank 0 empty": 0, "rank 1 empty": 101}


def _rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2
    )
    metric, results = SplitMetrics(FUNCTIONS), {}
    prediction, target = split()
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(1))
    prediction, target = prediction[order], target[order]
    for case, first in SHARDS.items():
        shard = slice(first) if rank == 0 else slice(first, None)
        if len(target[shard]):  # an empty rank never calls update
            for batch in zip(prediction[shard].split(20), target[shard].split(20), strict=True):
                metric.update(*batch)
        results[case] = floats(metric.compute())
        metric.reset()
    if rank == 0:
        metric.update(prediction, torch.full_like(target, torch.nan))
    results["nothing labelled"] = floats(metric.compute())
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results_of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, float]]]:
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        torch.multiprocessing.spawn(_rank, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", SHARDS)
def test_two_ranks_equal_one_process(
    results_of_ranks: list[dict[str, dict[str, float]]], case: str
) -> None:
    expected = whole(*split())
    assert [results[case] for results in results_of_ranks] == [expected, expected]


def test_two_ranks_without_labels_are_nan(
    results_of_ranks: list[dict[str, dict[str, float]]],
) -> None:
    for results in results_of_ranks:
        assert all(math.isnan(value) for value in results["nothing labelled"].values())
        assert results["nothing labelled"].keys() == FUNCTIONS.keys()
