"""``msa-predict``: score raw video with a trained run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from msa_lightning.config import command, resolve
from msa_lightning.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from msa_lightning.datasets.manifest import Manifest
    from msa_lightning.run import LoadedRun


@command("predict")
def main(cfg: DictConfig) -> None:
    """Extract features of every clip, score it, and say what each modality contributed.

    Writes ``scores.csv`` and ``scores.json``, and a timeline of every file that was cut.
    """
    from msa_lightning.datasets.raw_input import read_input
    from msa_lightning.reporting.predictions import show_predictions, write_predictions
    from msa_lightning.run import load_run, one_run

    cfg = resolve(cfg)
    run = load_run(
        one_run(cfg.run), {key: str(cfg.paths[key]) for key in ("data", "prepared", "cache")}
    )
    if "extraction" not in run.cfg.data:
        raise ConfigError(
            f"{run.dir}: was trained on the features of {run.cfg.data.path}, raw video has others; "
            "give a run that was trained on raw media (data=mosi, say)"
        )
    manifest = read_input(
        Path(cfg.input),
        transcripts=cfg.transcripts,
        text=cfg.text,
        asr=cfg.asr,
        asr_model=cfg.asr_model,
        cut=cfg.cut,
        max_clip_s=cfg.max_clip_s,
        window_s=cfg.window_s,
    )
    scores = predict(run, manifest, cache=cfg.paths.cache, workers=cfg.workers)
    out = Path(cfg.out or Path("predictions") / Path(cfg.input).resolve().name)
    write_predictions(scores, run, out)
    show_predictions(scores, run, out)


def predict(
    run: "LoadedRun", manifest: "Manifest", *, cache: str, workers: int | None
) -> "pd.DataFrame":
    """Score clips with the extractors, the normaliser and the network of a run.

    Args:
        run: A run that was trained on raw media.
        manifest: The clips.
        cache: Folder of the feature caches.
        workers: Processes; None is one per core, 0 is none.

    Returns:
        A row per clip, target and component with the columns of
        :func:`msa_lightning.scoring.contributions` and video, start, end, text, and
        ``missing_<modality>``: why it is.
    """
    import tempfile

    import pandas as pd

    from msa_lightning.config import instantiate
    from msa_lightning.datasets.manifest import Listed
    from msa_lightning.errors import DataError
    from msa_lightning.normalise import Normaliser
    from msa_lightning.scoring import contributions

    data = run.cfg.data.copy()
    data.extraction.update({"cache": cache, "workers": workers, "max_failed": 1.0})
    with tempfile.TemporaryDirectory() as folder:
        data.prepared = folder
        datamodule = instantiate(data, source=Listed(manifest))
        now, then = datamodule.extractors, run.provenance["data"]["extractors"]
        if other := [m for m in now if _numbers(now[m]) != _numbers(then[m])]:
            raise DataError(
                f"{run.dir}: was trained with other {', '.join(other)} features than are extracted "
                f"here (then {then[other[0]]}, now {now[other[0]]}); use the same weights and "
                "versions, or train again"
            )
        datamodule.normaliser = Normaliser.load(run.dir / "normaliser.npz")
        scores = contributions(run.module, datamodule.unlabelled_dataloader())
        missing = datamodule.missing
    ids = [clip.id for clip in manifest.clips]
    clips = pd.DataFrame(
        {
            "id": ids,
            "video": [clip.video for clip in manifest.clips],
            "start": manifest.intervals[:, 0],
            "end": manifest.intervals[:, 1],
            "text": [clip.text.text if clip.text else "" for clip in manifest.clips],
            **{f"missing_{m}": [why.get(i, "") for i in ids] for m, why in missing.items()},
        }
    )
    return clips.merge(scores, on="id", validate="one_to_many")


def _numbers(extractor: dict[str, Any]) -> dict[str, Any]:
    """What can change features: all but where weights lie."""
    return {key: value for key, value in extractor.items() if key != "weights_from"}


if __name__ == "__main__":
    main()
