"""What the model writes at an evaluation: the text of the weights evaluated, and no more than there is time for."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from cluster_of_threads import VOCAB
from transformers import LlamaConfig, LlamaForCausalLM

from legion.config import Architecture
from legion.data.tokenizer import BYTES
from legion.errors import PeerLost
from legion.reports import TextSample
from legion.train import writer as writing
from legion.train.writer import Writer
from tests.core.model.test_build import run_config as config_of
from tests.core.train.runs_in_threads import SEQ_LEN, run, run_config

END = BYTES.end_of_text
LETTERS = replace(BYTES, vocab_size=VOCAB, end_of_text=VOCAB - 1)  # of the clusters' small models


@pytest.fixture
def model() -> LlamaForCausalLM:
    """Of random weights; the end of text as likely as any other token."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=BYTES.vocab_size, max_position_embeddings=SEQ_LEN, **shape))


def only(model: LlamaForCausalLM, token: int) -> None:
    """From now on it writes nothing else."""
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.norm.weight.zero_()
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits.index_fill(-1, torch.tensor(token), 99))


def written(model: LlamaForCausalLM, step: int = 7, tokens: int = 40) -> list[TextSample]:
    samples: list[TextSample] = []
    with torch.no_grad():
        Writer(BYTES, tokens, samples.append).write(model, step, lambda: None)
    return samples


def test_a_step_gives_one_text(model: LlamaForCausalLM) -> None:
    assert written(model) == written(model)
    assert written(model)[0].step == 7
    assert written(model)[0].text != written(model, step=8)[0].text


def test_no_more_than_was_asked_for_beyond_the_context_too(model: LlamaForCausalLM) -> None:
    only(model, ord("x"))
    assert written(model, tokens=3 * SEQ_LEN)[0].text == "x" * 3 * SEQ_LEN


def test_a_document_that_ends_at_once_is_no_sample(model: LlamaForCausalLM) -> None:
    only(model, END)
    assert written(model) == []


def test_weights_that_are_no_numbers_write_nothing(model: LlamaForCausalLM, caplog: pytest.LogCaptureFixture) -> None:
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits * float("nan"))
    assert written(model) == []
    assert "no sample was written step=7" in caplog.text


def test_an_error_of_the_cluster_goes_on_to_who_evaluates(model: LlamaForCausalLM) -> None:
    def lost(*_: object) -> None:
        raise PeerLost("a peer left")

    model.register_forward_pre_hook(lost)
    with pytest.raises(PeerLost):
        written(model)


def test_it_ends_when_it_has_computed_for_long_enough(model: LlamaForCausalLM) -> None:
    only(model, ord("x"))
    now, samples = 0.0, list[TextSample]()

    def computed(*_: object) -> None:
        nonlocal now
        now += writing.MOST_S / 4

    def rests() -> None:
        nonlocal now
        now += 100 * writing.MOST_S

    model.register_forward_pre_hook(computed)
    with torch.no_grad():
        Writer(BYTES, 100, samples.append, clock=lambda: now).write(model, 1, rests)
    assert samples[0].text == "x" * 4


@pytest.mark.parametrize("shares", [(1,), (3, 1, 2)])
def test_a_cluster_writes_what_its_weights_write_alone(tmp_path: Path, shares: tuple[int, ...]) -> None:
    alone, together = list[TextSample](), list[TextSample]()
    config = run_config(evaluation__every_steps=5, cluster__claims="static")
    run(config, (1,), tmp_path / "alone", writer=Writer(LETTERS, 12, alone.append))
    heard = run(config, shares, tmp_path / "together", writer=Writer(LETTERS, 12, together.append))
    assert [sample.step for sample in together] == [5, 10]
    assert together == alone
    without = run(config, shares, tmp_path / "without")
    assert [each.evaluations for each in heard] == [each.evaluations for each in without]
    assert BYTES.vocab_size >= VOCAB


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_model_writes_beyond_its_context(tmp_path: Path, architecture: Architecture) -> None:
    model = config_of(architecture).model
    config = run_config(steps=2, data__seq_len=SEQ_LEN).model_copy(update={"model": model})
    written = {shares: list[TextSample]() for shares in ((1,), (2, 1))}
    for shares, samples in written.items():
        run(config, shares, tmp_path / str(len(shares)), writer=Writer(LETTERS, 40, samples.append))
    assert written[(1,)] == written[(2, 1)]
    assert written[(1,)][0].step == 2
