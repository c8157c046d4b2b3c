"""Text from a checkpoint folder: what the model says, within its context, and clear refusals of wrong folders."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from legion.data.tokenizer import BYTES
from legion.errors import CheckpointInvalid, Unusable
from legion_client.generate import generate

CONTEXT = 24


def save(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    for name, body in BYTES.files().items():
        (folder / name).write_bytes(body)
    return folder


def build(architecture: str) -> Any:
    torch.manual_seed(0)
    model: Any
    if architecture == "gpt2":
        shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=257, bos_token_id=256, eos_token_id=256, **shape))
    else:
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=CONTEXT, **shape))
    # The end of text would make the length a matter of luck.
    with torch.no_grad():
        model.get_output_embeddings().weight[256] = 0
    return model


@pytest.fixture(params=["llama", "gpt2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save(tmp_path / request.param, build(request.param))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "llama", build("llama"))


def test_greedy_text_is_what_transformers_generates(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    prompt = list(b"def f(")
    expected = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 6), max_new_tokens=12, do_sample=False, pad_token_id=256
    )
    text = generate(checkpoint, "def f(", tokens=12, temperature=0, seed=0)
    assert text == bytes(expected[0].tolist()).decode(errors="replace")


def test_a_seed_gives_one_text(checkpoint: Path) -> None:
    def texts(seed: int, temperature: float = 1.0) -> str:
        return generate(checkpoint, "x", tokens=16, temperature=temperature, seed=seed)

    assert texts(1) == texts(1)
    assert len({texts(seed) for seed in range(4)}) == 4
    assert texts(1, 1e-6) == texts(2, 1e-6) == texts(1, 0)


def test_a_program_gets_the_text_as_json(folder: Path) -> None:
    """Alone on standard output, whatever transformers says."""
    command = [sys.executable, "-m", "legion_client", "generate", "--checkpoint", str(folder), "--prompt", "é{"]
    done = subprocess.run(
        [*command, "--tokens", "3", "--seed", "2", "--json"], capture_output=True, text=True, check=True
    )
    expected = generate(folder, "é{", tokens=3, temperature=0.8, seed=2)
    assert json.loads(done.stdout) == {"text": expected, "prompt": "é{", "temperature": 0.8, "seed": 2}
    shutil.rmtree(folder)
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["error"]["slug"]) == (5, "checkpoint-invalid")


@pytest.mark.parametrize("prompt", ["", "a", "a" * (CONTEXT - 1), "a" * CONTEXT, "é" * CONTEXT * 3])
def test_text_may_be_longer_than_the_context(checkpoint: Path, prompt: str) -> None:
    text = generate(checkpoint, prompt, tokens=3 * CONTEXT, temperature=1.0, seed=0)
    assert text.startswith(prompt)
    assert len(text) > len(prompt)


def test_the_end_of_text_ends_it(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # whatever comes in, 256 comes out
        model.lm_head.weight.zero_()
        model.model.embed_tokens.weight.fill_(1)
        model.lm_head.weight[256] = 1
    assert generate(save(tmp_path / "out", model), "hello", tokens=5, temperature=0, seed=0) == "hello"


def test_text_in_other_scripts_survives(checkpoint: Path) -> None:
    assert generate(checkpoint, "naïve 😀\r\n", tokens=1, temperature=0, seed=0).startswith("naïve 😀\r\n")


@pytest.mark.parametrize(("tokens", "temperature"), [(0, 1.0), (-1, 1.0), (5, -0.1), (5, float("nan"))])
def test_impossible_wishes_are_refused(tmp_path: Path, tokens: int, temperature: float) -> None:
    with pytest.raises(Unusable, match="tokens must be positive"):
        generate(tmp_path, "x", tokens=tokens, temperature=temperature, seed=0)


def rewritten(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        body = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(body | values))

    return change


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "is not a folder"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "names no model_type"),
        (lambda folder: (folder / "config.json").write_text("[]"), "names no model_type"),
        (rewritten("config.json", model_type="bert"), "type 'bert'; Legion knows"),
        (rewritten("config.json", hidden_size="many"), "cannot be loaded"),
        (rewritten("config.json", hidden_size=18), "cannot be loaded"),
        (rewritten("config.json", num_hidden_layers=3), "lacks"),
        (rewritten("tokenizer_config.json", eos_token=None), "no end-of-text"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot be loaded"),
    ],
)
def test_a_wrong_folder_is_named(folder: Path, spoil: Any, says: str) -> None:
    spoil(folder)
    with pytest.raises(CheckpointInvalid, match=says) as caught:
        generate(folder, "x", tokens=1, temperature=0, seed=0)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_checkpoint_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    rewritten("config.json", auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})(folder)
    assert generate(folder, "x", tokens=1, temperature=0, seed=0)
    assert not (tmp_path / "ran").exists()
