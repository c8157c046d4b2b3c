"""Tokenizers: the fast path is the file, the file loads with transformers, and the hash decides."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer

from legion.config import DataConfig, TokenizerConfig
from legion.data.blobs import write_blob
from legion.data.manifest import sealed
from legion.data.prepare import prepare
from legion.data.tokenizer import BYTES, Tokenizer, cached_tokenizer, find_tokenizer
from legion.errors import DataError, DatasetMissing, FingerprintMismatch
from legion.messages import DatasetManifest

REFERENCE = tokenizers.Tokenizer.from_buffer(BYTES.blob)
AWKWARD = st.text() | st.lists(st.sampled_from(["<|endoftext|>", "<|endof", "text|>", "é", "🦊", "\n", " ", "\0"])).map(
    "".join
)


@given(AWKWARD)
def test_encoding_is_what_the_file_says_and_any_text_comes_back(text: str) -> None:
    ids = BYTES.encode(text)
    assert ids.tolist() == REFERENCE.encode(text, add_special_tokens=False).ids
    assert BYTES.decode(ids.tolist()) == text


@given(st.binary())
def test_bytes_that_are_not_utf8_decode_with_replacement(content: bytes) -> None:
    assert BYTES.decode(content) == content.decode("utf-8", "replace")


def test_ids_are_the_bytes() -> None:
    assert BYTES.vocab_size == REFERENCE.get_vocab_size() == 257
    assert REFERENCE.token_to_id("<|endoftext|>") == BYTES.end_of_text == 256
    assert BYTES.encode("aé").tolist() == [0x61, 0xC3, 0xA9]
    assert BYTES.encode("").size == 0
    assert BYTES.encode("\ud800").tolist() == [ord("?")]


def test_the_file_never_changes() -> None:
    # Runs that are under way are pinned to this hash.
    assert BYTES.sha256 == "ff6e0c79b281e285deccd7a3982e7f4d16235c9f64c7665746ff7d8f28a21d1c"


def test_transformers_loads_it_and_agrees(tmp_path: Path) -> None:
    for name, content in BYTES.files().items():
        (tmp_path / name).write_bytes(content)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "naïve 🦊\n\tdef f(x): return x  # <|endoftext|> end"
    assert loaded(text)["input_ids"] == BYTES.encode(text).tolist()
    assert loaded.decode(BYTES.encode(text).tolist()) == text
    assert loaded.eos_token_id == 256
    assert len(loaded) == 257


def learned(folder: Path, end: str = "</s>", *, settings: str | None = None) -> TokenizerConfig:
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=["<odd>", end],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 50], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(str(folder / "tokenizer.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(settings)
    return TokenizerConfig(kind="huggingface", name=str(folder))


@pytest.mark.parametrize(
    ("settings", "end"),
    [(None, "</s>"), ('{"eos_token": "<odd>"}', "<odd>"), ('{"eos_token": {"content": "<odd>"}}', "<odd>")],
)
def test_a_folder_with_a_tokenizer_is_pinned_by_its_hash(tmp_path: Path, settings: str | None, end: str) -> None:
    config = learned(tmp_path, settings=settings)
    pinned, tokenizer = find_tokenizer(config)
    model = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = ["the fox 🦊", "", "dog\ud800"]
    assert pinned.sha256 == tokenizer.sha256
    assert tokenizer.end_of_text == model.token_to_id(end)
    assert tokenizer.vocab_size == model.get_vocab_size()
    assert [ids.tolist() for ids in tokenizer.encode_all(texts)] == [tokenizer.encode(text).tolist() for text in texts]
    assert tokenizer.encode(texts[0]).tolist() == model.encode(texts[0]).ids
    assert find_tokenizer(pinned)[1] == tokenizer
    learned(tmp_path, "<eos>")
    with pytest.raises(FingerprintMismatch, match="started with"):
        find_tokenizer(pinned)


def test_its_data_is_packed_with_it_and_workers_decode_it(tmp_path: Path) -> None:
    source = tmp_path / "text"
    source.mkdir()
    (source / "a.txt").write_text("the quick fox")
    (source / "b.txt").write_text("the lazy dog")
    config = DataConfig(source="text", paths=(str(source),), tokenizer=learned(tmp_path / "tok"))
    done = prepare(config, seed=0, folder=tmp_path / "out")
    tokenizer = cached_tokenizer(done.manifest, tmp_path / "out")
    shards = (*done.manifest.train, *done.manifest.validation)
    decoded = [
        tokenizer.decode(np.frombuffer((tmp_path / "out" / shard.sha256).read_bytes(), "<u2").tolist())
        for shard in shards
    ]
    assert sorted(decoded) == ["the lazy dog</s>", "the quick fox</s>"]


@pytest.mark.parametrize(
    ("files", "kind", "match"),
    [
        ({}, DatasetMissing, "has no tokenizer.json"),
        ({"tokenizer.json": "{}"}, DataError, "not a tokenizer"),
        ({"tokenizer_config.json": "{"}, DataError, "not JSON"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused(
    tmp_path: Path, files: dict[str, str], kind: type[DataError], match: str
) -> None:
    if "tokenizer_config.json" in files:
        learned(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(kind, match=match):
        find_tokenizer(TokenizerConfig(kind="huggingface", name=str(tmp_path)))


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names no end-of-text token"):
        find_tokenizer(learned(tmp_path, "<unusual>"))


def manifest_for(tokenizer: Tokenizer, end_of_text: int = 256) -> DatasetManifest:
    return sealed(
        kind="packed",
        token_bytes=2,
        vocab_size=257,
        seq_len=8,
        tokenizer_sha256=tokenizer.sha256,
        end_of_text=end_of_text,
    )


def test_a_worker_refuses_another_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FingerprintMismatch, match=f"{BYTES.sha256} is missing"):
        cached_tokenizer(manifest_for(BYTES), tmp_path)
    write_blob(tmp_path, BYTES.blob)
    assert cached_tokenizer(manifest_for(BYTES), tmp_path) == BYTES
    with pytest.raises(FingerprintMismatch, match="no id 300"):
        cached_tokenizer(manifest_for(BYTES, end_of_text=300), tmp_path)
    (tmp_path / BYTES.sha256).write_bytes(BYTES.blob + b" ")
    with pytest.raises(FingerprintMismatch, match=BYTES.sha256):
        cached_tokenizer(manifest_for(BYTES), tmp_path)
