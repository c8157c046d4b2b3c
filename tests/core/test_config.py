"""Partial bodies are merged and validated as a whole; what is wrong is named with its place and what is allowed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from legion.config import ALIASES, ModelConfig, Problem, RunConfig, Section, config_digest, merge, validate
from legion.errors import ConfigInvalid

START = RunConfig()


def problems(change: dict[str, Any], config: RunConfig = START) -> list[Problem]:
    with pytest.raises(ConfigInvalid) as caught:
        merge(config, change)
    found: list[Problem] = caught.value.details["errors"]
    for problem in found:  # the sentence says everything the list does
        assert problem.field in str(caught.value)
        assert problem.problem in str(caught.value)
        assert problem.allowed in str(caught.value)
    return found


def test_an_empty_change_changes_nothing() -> None:
    assert merge(START, {}) == START


def test_a_partial_body_keeps_its_neighbours() -> None:
    config = merge(START, {"optimizer": {"lr": 0.5}, "data": {"tokenizer": {"revision": "v2"}}})
    assert config.optimizer.lr == 0.5
    assert config.optimizer.weight_decay == START.optimizer.weight_decay
    assert config.data.tokenizer.revision == "v2"
    assert config.data.seq_len == START.data.seq_len
    assert RunConfig() == START


def test_the_flat_names_of_earlier_tools_are_known() -> None:
    config = merge(
        START,
        {
            "dataset_type": "huggingface",
            "dataset_name": "fineweb",
            "model_size": "gpt2",
            "batch_size": 3,
            "seq_len": 64,
            "num_steps": 77,
        },
    )
    assert (config.data.source, config.data.name, config.data.seq_len) == ("huggingface", "fineweb", 64)
    assert (config.model.preset, config.batch.micro_batch_blocks, config.steps) == ("gpt2", 3, 77)


def test_every_alias_names_a_field() -> None:
    body = START.model_dump()
    for path in ALIASES.values():
        place: Any = body
        for part in path:
            assert part in place
            place = place[part]


def test_flat_and_nested_names_mix() -> None:
    config = merge(START, {"seq_len": 32, "data": {"text_column": "body"}, "batch_size": 1})
    assert (config.data.seq_len, config.data.text_column, config.batch.micro_batch_blocks) == (32, "body", 1)


def test_settings_are_one_value() -> None:
    first = merge(START, {"model": {"settings": {"hidden_size": 64, "num_hidden_layers": 2}}})
    assert first.model.settings == {"hidden_size": 64, "num_hidden_layers": 2}
    assert merge(first, {"model": {"settings": {"hidden_size": 96}}}).model.settings == {"hidden_size": 96}
    assert merge(first, {"model": {"settings": {}}}).model.settings == {}
    assert merge(first, {"steps": 50}).model.settings == first.model.settings


def test_settings_keep_their_types() -> None:
    given = {"a": 1, "b": 1.5, "c": True, "d": "x", "e": None}
    settings = merge(START, {"model": {"settings": given}}).model.settings
    assert [(k, type(v)) for k, v in settings.items()] == [(k, type(v)) for k, v in given.items()]


def test_an_architecture_takes_the_place_of_a_preset() -> None:
    config = merge(START, {"model": {"preset": None, "architecture": "qwen3"}})
    assert config.model == ModelConfig(preset=None, architecture="qwen3")


@pytest.mark.parametrize(
    ("change", "field", "allowed"),
    [
        ({"foo": 1}, "foo", "GET /training/config"),
        ({"data": {"path": "/etc/passwd"}}, "data.path", "GET /training/config"),
        ({"seq_len": 7}, "data.seq_len", ">= 8"),
        ({"seq_len": 65537}, "data.seq_len", "<= 65536"),
        ({"seq_len": "long"}, "data.seq_len", "a whole number"),
        ({"steps": 1.5}, "steps", "a whole number"),
        ({"steps": None}, "steps", "a whole number"),
        ({"steps": 10**400}, "steps", "<= 1000000000"),
        ({"seed": -1}, "seed", ">= 0"),
        ({"seed": 1 << 63}, "seed", "< "),
        ({"batch_size": 0}, "batch.micro_batch_blocks", "> 0"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr", "> 0"),
        ({"optimizer": {"lr": float("inf")}}, "optimizer.lr", "a finite number"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr", "a finite number"),
        ({"optimizer": {"beta1": 1}}, "optimizer.beta1", "< 1"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.name", "adamw"),
        ({"model_size": "huge"}, "model.preset", "tiny"),
        ({"model": {"preset": None, "architecture": "bert"}}, "model.architecture", "gpt_neox"),
        ({"model": {"architecture": "llama"}}, "model", ""),
        ({"model": {"preset": None}}, "model", ""),
        ({"model": {"settings": {"hidden_size": [1]}}}, "model.settings.hidden_size", "a number"),
        ({"model": {"settings": {"rope": {"a": 1}}}}, "model.settings.rope", "a number"),
        ({"model": 7}, "model", "an object"),
        ({"codecs": {"weights": "int4"}}, "codecs.weights", "int8"),
        ({"data": {"source": "text"}}, "data", ""),
        ({"data": {"paths": ["corpus"]}}, "data", ""),
        ({"data": {"paths": "corpus"}}, "data.paths", "a list"),
        ({"dataset_type": "huggingface"}, "data", ""),
        ({"dataset_name": "fineweb"}, "data", ""),
        ({"data": {"fingerprint": "abc"}}, "data.fingerprint", "[0-9a-f]{64}"),
        ({"data": {"tokenizer": {"kind": "huggingface"}}}, "data.tokenizer", ""),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], field: str, allowed: str) -> None:
    (problem,) = problems(change)
    assert problem.field == field
    assert problem.problem
    assert allowed in problem.allowed
    assert not problem.problem.startswith("Value error")


def test_everything_wrong_is_named_at_once() -> None:
    found = problems({"seq_len": 1, "steps": 0, "optimizer": {"lr": -1, "beta2": 2}, "colour": "red"})
    assert {p.field for p in found} == {"data.seq_len", "steps", "optimizer.lr", "optimizer.beta2", "colour"}


@pytest.mark.parametrize("change", [{"data": 5, "seq_len": 64}, {"seq_len": 64, "data": 5}])
def test_an_alias_into_something_that_is_no_section(change: dict[str, Any]) -> None:
    assert [p.field for p in problems(change)] == ["data"]


def test_a_run_shorter_than_its_warm_up_is_a_run() -> None:
    assert merge(RunConfig(), {"num_steps": 1}).steps == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from([*ALIASES, *RunConfig.model_fields, "lr", "settings", "preset", "tokenizer", "x"]),
            inner,
            max_size=4,
        ),
        max_leaves=6,
    ).filter(lambda value: isinstance(value, dict))
)
def test_any_json_either_merges_or_is_refused_with_reasons(change: Any) -> None:
    config, reasons = None, []
    try:
        config = merge(START, change)
    except ConfigInvalid as error:
        reasons = error.details["errors"]
    assert (config is None) == bool(reasons)
    if config is not None:
        assert validate(json.loads(config.model_dump_json())) == config


def test_a_configuration_survives_json() -> None:
    config = merge(START, {"model": {"settings": {"rope_theta": 1e6, "tie_word_embeddings": True}}, "seq_len": 256})
    assert validate(json.loads(config.model_dump_json())) == config


def test_the_digest_is_of_the_values_alone() -> None:
    digest = config_digest(START)
    assert len(bytes.fromhex(digest)) == 32
    assert config_digest(validate(dict(reversed(START.model_dump(mode="json").items())))) == digest
    assert config_digest(merge(START, {"seed": 1})) != digest


@pytest.mark.parametrize(
    ("optimizer", "codec", "chosen", "over"),
    [
        ("adamw", "topk", "auto", "senders"),
        ("onebit_adam", "topk", "auto", "senders"),
        ("muon", "topk", "auto", "participants"),
        ("adamw", "int4", "auto", "participants"),
        ("adamw", "auto", "auto", "participants"),
        ("adamw", "topk", "participants", "participants"),
        ("muon", "int4", "senders", "senders"),
    ],
)
def test_what_is_averaged_over_follows_the_optimizer(optimizer: str, codec: str, chosen: str, over: str) -> None:
    solo = {"policy": "solo"}
    config = merge(
        START, {"cluster": solo, "optimizer": {"name": optimizer}, "rounds": {"codec": codec, "mean_over": chosen}}
    )
    assert config.averaging == config.rounds.model_copy(update={"mean_over": over})


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        START.steps = 3  # type: ignore[misc]


def test_no_section_is_open() -> None:
    sections = [RunConfig, *Section.__subclasses__()]
    assert len(sections) > 8
    for section in sections:
        assert section.model_config["extra"] == "forbid", section
        assert section.model_config["frozen"], section
