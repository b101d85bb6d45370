import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)

from msa_lightning.config import CONF
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.extractors.assets import MINILM, find
from msa_lightning.extractors.bert import Encoder
from msa_lightning.extractors.contract import Features, RawClip, Transcript, Unusable

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["good", "bad", "movie", "the", "was"]
TEXTS = [
    "the movie was good",
    "bad",
    "was the movie good or was it bad and who can say now",
    "zyx",
    "  the\tmovie \n was\u3000good  ",
    "good 😀 bad",
]


def save_tokenizer(folder: Path, **options) -> None:
    """A real word-piece tokenizer: some words whole, everything else letter by letter."""
    pieces = [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **options).save_pretrained(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A BertModel with random weights, 16 numbers a token, 48 tokens at most."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + 2 * len(LETTERS) + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def encoder(folder: Path | str, **options) -> Encoder:
    defaults = {"pooling": "mean", "max_length": 512, "batch_size": 16, "device": "cpu"}
    return Encoder(encoder=str(folder), **defaults | options)


def clip(text: str, words=None, duration_s=None) -> RawClip:
    return RawClip("v_0", "v", text=Transcript(text, words, duration_s))


def in_new_process(code: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if k != "MSA_ASSETS" and not k.startswith("HF_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True)


def test_states_are_those_of_transformers(tiny):
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModel.from_pretrained(tiny).eval()
    for text in TEXTS:
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        features = encoder(tiny).extract(clip(text))
        np.testing.assert_allclose(features.values, expected, atol=1e-6)
        np.testing.assert_allclose(features.vector, expected.mean(axis=0), atol=1e-6)
        assert features.values.dtype == features.vector.dtype == np.float32
        first = encoder(tiny, pooling="cls").extract(clip(text))
        np.testing.assert_allclose(first.vector, expected[0], atol=1e-6)


def test_a_batch_gives_what_each_clip_gives_alone(tiny):
    extractor = encoder(tiny)
    clips = [clip(text) for text in TEXTS]
    clips.insert(1, clip(" \t "))
    clips.insert(4, clip("\u200b"))
    clips.append(RawClip("v_1", "v", missing={"text": "transcript not UTF-8"}))
    together = extractor.extract_batch(clips)
    assert [r.reason for r in together if isinstance(r, Unusable)] == [
        "empty transcript",
        "empty transcript",
        "transcript not UTF-8",
    ]
    for one, result in zip(clips, together, strict=True):
        if isinstance(result, Unusable):
            with pytest.raises(Unusable, match=result.reason):
                extractor.extract(one)
            continue
        alone = extractor.extract(one)
        np.testing.assert_allclose(result.values, alone.values, atol=1e-5)
        np.testing.assert_allclose(result.vector, alone.vector, atol=1e-5)
        np.testing.assert_array_equal(result.times, alone.times)
        assert result.facts == alone.facts
    assert extractor.extract_batch([]) == []
    assert isinstance(extractor.extract_batch([clip("")])[0], Unusable)


def test_neighbours_of_any_length_change_nothing(tiny):
    extractor = encoder(tiny)
    alone = extractor.extract(clip("bad"))
    for length in (2, 5, 17, 46):
        beside, _ = extractor.extract_batch([clip("bad"), clip("good " * length)])
        np.testing.assert_allclose(beside.values, alone.values, atol=1e-5)
        np.testing.assert_allclose(beside.vector, alone.vector, atol=1e-5)


def test_a_long_transcript_is_cut_on_the_right_and_says_so(tiny):
    text = " ".join(WORDS[i % 5] for i in range(5000))
    times = tuple((float(i), i + 0.5) for i in range(5000))
    features = encoder(tiny).extract(clip(text, times, 6000.0))
    assert features.values.shape == (48, 16)  # what the model takes, though 512 were allowed
    assert features.facts == {"tokens": 46, "tokens_cut": 4954, "times": "words"}
    assert features.times[-2:].tolist() == [[45, 45.5], [6000, 6000]]
    start = encoder(tiny).extract(clip(" ".join(text.split()[:46])))
    np.testing.assert_allclose(features.values, start.values, atol=1e-6)
    short = encoder(tiny, max_length=10).extract(clip(text))
    assert short.values.shape == (10, 16)
    assert short.facts["tokens_cut"] == 4992


def test_tokens_take_the_times_of_their_words(tiny):
    text = " good\u3000 \tabc,\nbad 😀"  # good | a b c , | bad | unknown
    spoken = ((0.1, 0.5), (0.5, 0.9), (1.0, 1.4), (1.5, 1.6))
    features = encoder(tiny).extract(clip(text, spoken, 2.0))
    assert features.times.tolist() == [
        [0, 0],
        [0.1, 0.5],
        *[[0.5, 0.9]] * 4,
        [1.0, 1.4],
        [1.5, 1.6],
        [2, 2],
    ]
    assert features.facts == {"tokens": 7, "tokens_cut": 0, "times": "words"}
    assert features.times.dtype == np.float64


def test_a_token_that_begins_with_a_space_is_of_the_word_after_it(tiny, tmp_path):
    folder = Path(shutil.copytree(tiny, tmp_path / "sentencepiece"))
    pieces = ["<unk>", "\u2581good", "\u2581bad"]  # as the tokenizers of T5 or XLM-R have them
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<unk>").save_pretrained(folder)
    features = encoder(folder).extract(clip("good bad", ((0.1, 0.5), (0.6, 0.9))))
    assert features.times.tolist() == [[0.1, 0.5], [0.6, 0.9]]


def test_times_are_estimated_or_counted_where_unknown(tiny):
    extractor = encoder(tiny)
    estimated = extractor.extract(clip("good was abc", None, 5.0))
    assert estimated.facts["times"] == "estimated"
    assert estimated.times.tolist() == [[0, 0], [0, 2], [2, 3.5], *[[3.5, 5]] * 3, [5, 5]]
    counted = extractor.extract(clip("good was abc"))
    assert counted.facts["times"] == "index"
    assert counted.times.tolist() == [[0, 0], [0, 1], [1, 2], *[[2, 3]] * 3, [3, 3]]


def test_times_of_other_words_are_refused(tiny):
    with pytest.raises(Unusable, match="times of 1 words for 2"):
        encoder(tiny).extract(clip("good movie", ((0.0, 1.0),)))


def test_identity_is_of_options_and_content(tiny, tmp_path):
    extractor = encoder(tiny)
    assert json.loads(json.dumps(extractor.identity)) == extractor.identity
    moved = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    assert encoder(moved).identity == extractor.identity
    assert encoder(tiny, device="auto", batch_size=1).identity == extractor.identity
    others = [encoder(tiny, pooling="cls").identity, encoder(tiny, max_length=128).identity]
    weights = load_file(moved / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    others.append(encoder(moved).identity)
    moved = Path(shutil.copytree(tiny, tmp_path / "again" / "tiny"))
    text = (moved / "tokenizer.json").read_text()
    (moved / "tokenizer.json").write_text(text.replace('"good"', '"gold"'))
    others.append(encoder(moved).identity)
    assert len({json.dumps(i) for i in [extractor.identity, *others]}) == 5


def test_describing_itself_loads_no_model(tiny):
    code = (
        "import pickle, sys; from msa_lightning.extractors.bert import Encoder;"
        f"e = Encoder(encoder={str(tiny)!r}, pooling='mean', max_length=512, batch_size=16,"
        "device='auto'); e.identity; pickle.dumps(e); assert len(e.columns) == 16;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    done = in_new_process(code)
    assert done.returncode == 0, done.stderr


def test_a_copy_for_another_process_gives_the_same(tiny):
    extractor = encoder(tiny)
    copied = pickle.loads(pickle.dumps(extractor))
    np.testing.assert_array_equal(
        copied.extract(clip("bad")).values, extractor.extract(clip("bad")).values
    )


def test_encoders_of_other_families(tmp_path):
    sizes = {"dim": 12, "n_heads": 2, "hidden_dim": 8, "n_layers": 1, "vocab_size": 99}
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(tmp_path / "distil")
    sizes = {"d_model": 20, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 99}
    T5Model(T5Config(**sizes, decoder_start_token_id=0)).save_pretrained(tmp_path / "t5")
    for name, dim in {"distil": 12, "t5": 20}.items():
        save_tokenizer(tmp_path / name, model_input_names=["input_ids", "attention_mask"])
        extractor = encoder(tmp_path / name)
        assert len(extractor.columns) == dim
        assert extractor.name == name
        long, short = extractor.extract_batch([clip("the movie was good " * 9), clip("bad")])
        assert long.values.shape == (38, dim)
        np.testing.assert_allclose(short.values, extractor.extract(clip("bad")).values, atol=1e-5)


def test_a_folder_wins_over_the_assets_folder(tiny, tmp_path, monkeypatch):
    other = Path(shutil.copytree(tiny, tmp_path / "assets" / "some-encoder"))
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    monkeypatch.setenv("MSA_ASSETS", str(tmp_path / "assets"))
    by_name = encoder("some-encoder@main")
    assert by_name.name == "some-encoder"
    assert by_name.identity["files"] == encoder(other).identity["files"]
    monkeypatch.chdir(Path(shutil.copytree(tiny, tmp_path / "here" / "some-encoder")).parent)
    assert encoder("some-encoder").identity["files"] == encoder(tiny).identity["files"]


REPORT = (
    "import sys; from msa_lightning.extractors.bert import Encoder;"
    "e = Encoder(encoder='me/tiny@main', pooling='mean', max_length=512, batch_size=16,"
    "device='cpu'); print(e.name, e.identity['files'])"
)


def test_the_cache_of_the_hub_serves_without_a_network(tiny, tmp_path):
    repository = tmp_path / "models--me--tiny"
    shutil.copytree(tiny, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    done = in_new_process(REPORT, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.stdout.split() == ["tiny", encoder(tiny).identity["files"]], done.stderr


def test_an_encoder_that_cannot_be_had_says_what_to_do(tmp_path):
    done = in_new_process(REPORT, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert "DataNotFoundError: me/tiny: no such folder" in message
    assert "extractor/text=minilm" in message
    assert "extractor.text.encoder=<folder>" in message
    with pytest.raises(DataNotFoundError, match="no such folder"):
        encoder(tmp_path / "nowhere" / "at" / "all").columns  # noqa: B018


def test_a_broken_encoder_is_explained(tiny, tmp_path):
    def broken(name: str) -> Path:
        return Path(shutil.copytree(tiny, tmp_path / name))

    pickled = broken("pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(DataError, match="safetensors"):
        encoder(pickled).columns  # noqa: B018

    short = broken("short")
    content = (short / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be loaded"):
        encoder(short).extract(clip("good"))

    lacking = broken("lacking")
    weights = load_file(lacking / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lack encoder\.layer\.1"):
        encoder(lacking).extract(clip("good"))

    unsized = broken("unsized")
    config = json.loads((unsized / "config.json").read_text())
    del config["hidden_size"]
    (unsized / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="hidden_size"):
        encoder(unsized).columns  # noqa: B018


def test_impossible_options_are_refused(tiny):
    with pytest.raises(ConfigError, match="max_length"):
        encoder(tiny, max_length=2)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            encoder(tiny, device="cuda").extract(clip("good"))


@pytest.mark.parametrize("name", ["bert", "minilm"])
def test_config_builds_an_encoder(name):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose(f"extractor/text/{name}").extractor.text
    options = OmegaConf.to_container(cfg)
    assert options.pop("_target_") == "msa_lightning.extractors.bert.Encoder"
    assert Encoder(**options).name == {"bert": "bert-base-uncased"}.get(name, name)


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    try:
        find(MINILM)
    except DataNotFoundError as error:
        pytest.skip(str(error))
    return encoder("minilm")


def test_a_pretrained_encoder_knows_meanings(minilm):
    texts = ["i loved this film", "what a great movie", "the printer is out of paper"]
    one, two, three = (minilm.extract(clip(text)).vector for text in texts)
    assert len(minilm.columns) == 384
    assert np.corrcoef(one, two)[0, 1] > np.corrcoef(one, three)[0, 1] + 0.2


def test_a_pretrained_encoder_is_the_same_in_batches(minilm):
    clips = [clip(text, None, 3.0) for text in [*TEXTS, "naïve 你好 [MASK] don't", "word " * 600]]
    for one, result in zip(clips, minilm.extract_batch(clips), strict=True):
        assert isinstance(result, Features)
        alone = minilm.extract(one)
        np.testing.assert_allclose(result.values, alone.values, atol=1e-5)
        np.testing.assert_allclose(result.vector, alone.vector, atol=1e-5)
        assert result.facts == alone.facts
    assert result.facts["tokens_cut"] == 90
