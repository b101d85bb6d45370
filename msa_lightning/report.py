"""``msa-report``: finished runs → tables, figures and ``report.html``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from msa_lightning.config import command
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError

if TYPE_CHECKING:
    import pandas as pd

    from msa_lightning.reporting.collect import Runs
    from msa_lightning.reporting.document import Wanted


@command("report")
def main(cfg: DictConfig) -> None:
    """Report on runs, grouped by everything but the seed; compare with an earlier table."""
    import pandas as pd
    from rich.console import Console

    from msa_lightning.records import write
    from msa_lightning.reporting import adapters, clips, tables
    from msa_lightning.reporting.collect import collect

    expected = _read(Path(cfg.expect)) if cfg.expect else None
    said = clips.read_transcripts(Path(cfg.transcripts)) if cfg.transcripts else None
    chosen = list(dict.fromkeys([*cfg.metrics, *cfg.compare]))
    runs = collect(cfg.runs, splits=dict.fromkeys(metric.split("/")[0] for metric in chosen))
    if cfg.subset:
        chosen = list(dict.fromkeys([*chosen, *(tables.of(cfg.subset, m) for m in cfg.compare)]))
    if faults := list(_faults(cfg, runs, chosen)):
        raise ConfigError("\n".join(faults))
    reference = cfg.reference or ("text" if "text" in runs.groups else None)

    scores, baselines, unscored = tables.bootstrap(
        runs, chosen, by=cfg.resample, resamples=cfg.resamples, seed=cfg.seed
    )
    summary = tables.summarise(runs.table, cfg.metrics, scores, baselines)
    summary = pd.concat([summary, tables.chance(runs, cfg.metrics, scores)], ignore_index=True)
    comparisons, uncompared = tables.compare(scores, baselines, cfg.compare, reference, cfg.subset)
    sentences = [tables.sentence(row) for _, row in comparisons.iterrows()]
    tested = comparisons["p"].notna().sum() if sentences else 0
    clusters = {metric.split("/")[0]: score.clusters for (_, metric), score in scores.items()}
    notes = [*_notes(cfg, runs, tested, clusters), *unscored, *uncompared]

    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    cells = tables.cells(summary)
    parts = [tables.markdown(cells)]
    each = runs.adapters()
    measured = adapters.summarise(each)
    if len(measured):
        parts.append(tables.markdown(measured.set_index("group")))
    parts += ["\n".join(f"- {line}" for line in lines) for lines in (sentences, notes) if lines]
    write(out / "results.csv", runs.table.to_csv(index=False))
    write(out / "table.md", "\n\n".join(parts) + "\n")
    write(out / "table.csv", summary.to_csv(index=False))
    write(out / "table.tex", tables.latex(cells))
    if len(each):
        write(out / "adapters.csv", each.to_csv(index=False))
    if cfg.html:
        from msa_lightning.reporting.document import Findings, write_page

        found = Findings(runs, summary, comparisons, measured, notes, said)
        write_page(found, _wanted(cfg, chosen, reference), out)

    console = Console(highlight=False, markup=False)
    console.print(*tables.terminal(summary, console.width), *sentences, "", *notes, sep="\n")
    deviates = expected is not None and _deviates(runs.table, expected, cfg)
    written = [out / name for name in ("results.csv", "table.md")]
    written += [out / "adapters.csv"] if len(each) else []
    written += [out / "report.html"] if cfg.html else []
    written += (
        [out / "figures" / "results.png"] if cfg.html and {*cfg.compare} & {*cfg.metrics} else []
    )
    console.print(f"runs {cfg.runs}", *written, sep="\n  ", soft_wrap=True)
    console.print(*tables.conclusions(comparisons), sep="\n", soft_wrap=True)
    if deviates:
        raise SystemExit(1)


def _wanted(cfg: DictConfig, chosen: list[str], reference: str | None) -> "Wanted":
    from msa_lightning.reporting.document import Wanted

    scored = {metric.split("/")[0] for metric in chosen}
    return Wanted(
        title=f"Report on {cfg.runs}",
        metrics=cfg.compare,
        split=next((split for split in ("test", "valid") if split in scored), None),
        groups=cfg.groups,
        reference=reference,
        clips=cfg.clips,
    )


def _faults(cfg: DictConfig, runs: "Runs", chosen: list[str]) -> Iterator[str]:
    if not cfg.metrics:
        yield "metrics: empty; give the columns of the table, as metrics=[test/mae]"
    if unknown := [m for m in chosen if m not in runs.metrics]:
        have = ", ".join(runs.metrics)
        yield f"metrics, compare, subset: no run has {', '.join(unknown)}; there are {have}"
    for m in cfg.compare:
        if m.startswith("train/") or not runs.function(runs.groups[0], m):
            yield f"compare: {m} has no interval over clips; compare metrics of valid or test"
    if cfg.reference and cfg.reference not in runs.groups:
        yield f"reference: no group '{cfg.reference}'; there are {runs.groups}"
    if cfg.resample not in ("video", "clip"):
        yield f"resample: '{cfg.resample}' is neither video nor clip"
    if cfg.resamples < 100:
        yield f"resamples: {cfg.resamples} found, expected 100 or more; 2000 give stable intervals"
    if cfg.groups < 1 or cfg.clips < 1:
        yield f"groups, clips: {cfg.groups} and {cfg.clips} found, expected 1 or more"
    if Path(cfg.out).is_file():
        yield f"out: {cfg.out} is a file; give a folder"


def _notes(cfg: DictConfig, runs: "Runs", tested: int, clusters: dict[str, int]) -> Iterator[str]:
    """How to read the table, and what speaks against trusting it."""
    table = runs.table
    unit = "clips" if cfg.resample == "clip" else "videos with all their clips"
    counted = " and ".join(f"{n} ({split})" for split, n in clusters.items())
    if len(set(clusters.values())) == 1:
        counted = str(min(clusters.values()))
    yield "± is the sample standard deviation over n seeds."
    if clusters:
        yield (
            "[ ] is the 95 % interval of the seeds' average over clips: "
            f"{cfg.resamples} bootstrap resamples of {counted} {unit}."
        )
        if cfg.resample == "clip":
            yield "Clips were resampled as if those of one video were independent."
        if (fewest := min(clusters.values())) < 10:
            yield f"{fewest} {unit} are too few for intervals and tests."
    if tested:
        yield (
            "Differences are tested over clips and seeds together; p is corrected for the "
            f"{tested} comparisons tested here (Holm), the intervals of these sentences are not."
        )
    if few := [f"{g} ({n})" for g, n in table["group"].value_counts(sort=False).items() if n < 5]:
        yield f"Fewer than five seeds: {', '.join(few)}."
    if table["group"].value_counts().min() == 1:
        yield "What is said of a group of one seed holds for that trained model only."
    if table["synthetic"].any():
        yield "Synthetic data: these numbers say nothing about real corpora."
    if seen := [g for g in runs.groups if _transductive(runs, g)]:
        yield f"Transductive, adapters have seen features of test clips: {', '.join(seen)}."
    for what in ("commit", "digest"):
        if table[what].nunique() > 1:
            yield f"The runs differ in their {what}: {', '.join(table[what].unique())}."
    if table["commit"].str.endswith("-dirty").any():
        yield "Some runs are of code with uncommitted changes."
    for folder, reason in runs.left_out.items():
        yield f"Left out: {folder}: {reason}"


def _transductive(runs: "Runs", group: str) -> bool:
    return any(run.provenance["data"].get("transductive", False) for run in runs.of(group))


def _read(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise DataNotFoundError(f"{path}: no such file; expect=<an earlier results.csv>")
    try:
        table = pd.read_csv(path)
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as csv ({error})") from error
    if missing := {"group", "seed"} - set(table):
        raise DataError(f"{path}: no columns {sorted(missing)}; expected what msa-report writes")
    return table


def _deviates(table: "pd.DataFrame", expected: "pd.DataFrame", cfg: DictConfig) -> bool:
    """Print the largest deviation of each metric and what is missing; whether it is too much."""
    from msa_lightning.reporting.tables import deviations

    largest, missing = deviations(table, expected)
    print(f"Largest deviation from {cfg.expect} (tolerance {cfg.tolerance:g}):")
    for metric, value in largest.items():
        print(f"  {metric:32} {value:.2e}{'  too large' if value > cfg.tolerance else ''}")
    for run in missing:
        print(f"  missing: {run}")
    return bool((largest > cfg.tolerance).any() or missing)


if __name__ == "__main__":
    main()
