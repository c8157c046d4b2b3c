"""Assembled folders load in transformers and hold exactly the weights of the slices."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from legion import digest
from legion.checkpoint.assemble import assemble
from legion.checkpoint.shards import HEADER_BYTES
from legion.config import validate
from legion.data.tokenizer import BYTES
from legion.errors import CheckpointInvalid, StorageFailed
from legion.messages import CheckpointManifest


def join(made: Any, target: Path, **more: Any) -> Any:
    given = {"slices": made.slices, "config": made.config, "vocab_size": BYTES.vocab_size, "end_of_text": 256}
    given = {"manifest": made.manifest, "tokenizer_json": made.tokenizer_json} | given | more
    return assemble(target=target, **given)


def tensors_of(made: Any) -> dict[str, np.ndarray]:
    """Every tensor, cut straight from the flat space."""
    found = {}
    for unit, offset in zip(made.manifest.shape.units, made.layout.offsets, strict=True):
        at = offset
        for tensor in unit.tensors:
            found[tensor.name] = made.flat["weights"][at : at + tensor.numel].reshape(tensor.shape)
            at += tensor.numel
    return found


def saved(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}
            assert not found.keys() & set(file.keys())
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    return found


def check_equal(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.array_equal(got[name], value), name


@pytest.mark.parametrize("shares", [(1,), (1, 1), (5, 1, 3), (1, 1, 1, 1, 1, 1, 1)])
@pytest.mark.parametrize("file_bytes", [1, 40_000, 5_000_000_000])
def test_every_tensor_arrives_bit_for_bit(
    cut: Any, config: Any, tmp_path: Path, shares: tuple[int, ...], file_bytes: int
) -> None:
    made = cut(config(), shares)
    done = join(made, tmp_path / "out", file_bytes=file_bytes)
    check_equal(saved(tmp_path / "out"), tensors_of(made))
    assert done.weights_digest == digest.root(digest.leaves(made.flat["weights"]))
    assert list(done.files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    one_file = file_bytes > 1_000_000
    assert ("model.safetensors" in done.files) == one_file
    assert ("model.safetensors.index.json" in done.files) == (not one_file)


@pytest.mark.parametrize("file_bytes", [40_000, 5_000_000_000])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gpt_neo", "gpt_neox"])
def test_transformers_loads_it(
    cut: Any, config: Any, tmp_path: Path, architecture: str, tied: bool, file_bytes: int
) -> None:
    made = cut(config(architecture, tie_word_embeddings=tied), (2, 1, 1))
    join(made, tmp_path / "out", file_bytes=file_bytes)

    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == torch.float32
    model.save_pretrained(tmp_path / "again")
    check_equal(saved(tmp_path / "again"), tensors_of(made))
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert model.config.eos_token_id == 256


def test_the_tokenizer_loads_too(cut: Any, config: Any, tmp_path: Path) -> None:
    join(cut(config(), (1, 1)), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "def f(x):\n\treturn 'é😀'  \r\n"
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.eos_token_id == 256
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == BYTES.blob
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 256


def test_the_folder_says_where_it_comes_from(cut: Any, config: Any, tmp_path: Path) -> None:
    made = cut(config(), (1, 2))
    done = join(made, tmp_path / "out")
    origin = json.loads((tmp_path / "out" / "legion.json").read_text())
    assert origin["weights_digest"] == done.weights_digest
    assert CheckpointManifest.model_validate(origin["manifest"]) == made.manifest
    assert validate(origin["config"]) == made.config
    card = (tmp_path / "out" / "README.md").read_text()
    assert done.weights_digest in card
    assert f"{made.manifest.shape.parameters:,} parameters" in card


def test_the_index_names_every_tensor_and_the_whole_size(cut: Any, config: Any, tmp_path: Path) -> None:
    made = cut(config(), (1,))
    join(made, tmp_path / "out", file_bytes=30_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * made.manifest.shape.parameters
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, "np") as opened:
            assert name in opened.keys()  # noqa: SIM118  not a mapping
    for path in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(path, "np") as opened:
            assert path.stat().st_size < 31_000 + 4096 or len(opened.keys()) == 1


def test_the_number_of_members_leaves_no_trace_in_the_weights(cut: Any, config: Any, tmp_path: Path) -> None:
    one, seven = cut(config(), (1,), "one"), cut(config(), (1, 9, 1, 1, 2, 1, 1), "seven")
    assert join(one, tmp_path / "a").weights_digest == join(seven, tmp_path / "b").weights_digest
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_assembling_again_replaces_the_folder(cut: Any, config: Any, tmp_path: Path) -> None:
    made = cut(config(), (1, 1))
    join(made, tmp_path / "out", file_bytes=30_000)
    done = join(made, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == list(done.files)


def test_a_larger_vocabulary_than_the_tokenizers(cut: Any, config: Any, tmp_path: Path) -> None:
    join(cut(config(vocab_size=300), (1, 1)), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().weight.shape[0] == 300


def swap(made: Any) -> None:
    made.slices[0], made.slices[1] = made.slices[1], made.slices[0]


def another_step(made: Any) -> None:
    made.manifest = made.manifest.model_copy(update={"step": 8})


def another_run(made: Any) -> None:
    made.manifest = made.manifest.model_copy(update={"run_id": "run-other"})


def other_shares(made: Any) -> None:
    made.manifest = made.manifest.model_copy(update={"shares": (9, 1, 1)})


def other_vocabulary(made: Any) -> None:
    settings = made.config.model.settings | {"vocab_size": 400}
    made.config = made.config.model_copy(update={"model": made.config.model.model_copy(update={"settings": settings})})


def not_a_tokenizer(made: Any) -> None:
    made.tokenizer_json.write_text('{"model": {"vocab": []}}')


def tokenizer_without_that_id(made: Any) -> None:
    made.tokenizer_json.write_text('{"model": {"vocab": {"a": 0}}, "added_tokens": []}')


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda made: made.slices.pop(1), "slices of ranks 1 are missing"),
        (lambda made: made.slices[1].unlink(), "No such file"),
        (lambda made: made.slices[1].write_bytes(made.slices[1].read_bytes()[:-7]), "not a whole slice"),
        (lambda made: made.slices[1].write_bytes(bytes(HEADER_BYTES)), "not a slice of a Legion checkpoint"),
        (swap, "belongs elsewhere"),
        (another_step, "belongs elsewhere"),
        (another_run, "belongs elsewhere"),
        (other_shares, "elements, rank 0 owns"),
        (other_vocabulary, "has 257 rows, the configuration's vocabulary 400 ids"),
        (lambda made: made.tokenizer_json.unlink(), "No such file"),
        (not_a_tokenizer, "not a tokenizer that knows id 256"),
        (tokenizer_without_that_id, "not a tokenizer that knows id 256"),
    ],
)
def test_what_does_not_belong_together_is_refused_and_nothing_is_left(
    cut: Any, config: Any, tmp_path: Path, spoil: Any, says: str
) -> None:
    made = cut(config(), (1, 1, 1))
    spoil(made)
    with pytest.raises(CheckpointInvalid, match=says):
        join(made, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["slices"]


def test_a_target_that_cannot_be_written(cut: Any, config: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageFailed):
        join(cut(config(), (1,)), tmp_path / "file" / "out")


ASSEMBLE = """
import sys
from pathlib import Path
from legion.checkpoint.assemble import assemble
from legion.config import RunConfig, ModelConfig
from legion.data.tokenizer import BYTES
from legion.messages import CheckpointManifest
folder = Path(sys.argv[1])
manifest = CheckpointManifest.model_validate_json((folder / "manifest.json").read_text())
config = RunConfig.model_validate_json((folder / "config.json").read_text())
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # KiB
before = peak()
assemble(manifest, {r: folder / f"rank-{r}.safetensors" for r in range(len(manifest.shares))}, config, 257,
    folder / "tokenizer.json", 256, folder / "out")
print({"torch", "transformers"} & sys.modules.keys(), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc; ru_maxrss would count the parent's memory")
def test_memory_does_not_grow_with_the_model_and_torch_is_not_needed(cut: Any, config: Any, tmp_path: Path) -> None:
    made = cut(config(hidden_size=512, intermediate_size=2048), (1, 2))
    size_bytes = 4 * made.manifest.shape.parameters
    assert size_bytes > 48 << 20
    folder = tmp_path / "slices"
    (folder / "manifest.json").write_text(made.manifest.model_dump_json())
    (folder / "config.json").write_text(made.config.model_dump_json())
    argv = [sys.executable, "-c", ASSEMBLE, str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    loaded, grown_kib = done.stdout.split()
    assert loaded == "set()"
    assert int(grown_kib) < 8 << 10
