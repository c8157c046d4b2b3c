"""RunConfig: the one truth about a run. The server holds it, workers fetch it, nobody has flags for what it says.

Frozen and closed (`extra="forbid"`): a wrong value dies here, with the field's name. The server fills in what it
finds out while preparing the data (`data.fingerprint`, `data.tokenizer.sha256`).
"""

import hashlib
import json
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from pydantic import model_validator as check

from legion.errors import ConfigInvalid

CodecName = Literal["none", "bf16", "int8"]
RoundCodecName = Literal["auto", "none", "bf16", "int8", "int4", "int2", "onebit", "topk"]
PresetName = Literal[
    "tiny", "small", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "llama-1b", "llama-3b", "llama-7b"
]
Architecture = Literal["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neo", "gpt_neox"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A part of the configuration."""


class ModelConfig(Section):
    """A preset, or an allow-listed architecture with its transformers settings; `settings` override a preset's."""

    preset: PresetName | None = "tiny"
    architecture: Architecture | None = None
    settings: dict[str, int | float | bool | str | None] = Field(default_factory=dict)

    @check(mode="after")
    def _one_source(self) -> Self:
        if (self.preset is None) == (self.architecture is None):
            raise ValueError("give either preset or architecture, not both and not neither")
        return self


class TokenizerConfig(Section):
    """`bytes` (ids 0-255 are the bytes, 256 ends a document) or a Hugging Face tokenizer, pinned by its file's hash."""

    kind: Literal["bytes", "huggingface"] = "bytes"
    name: str | None = None  # a hub id, or a folder of the server with tokenizer.json
    revision: str = "main"
    sha256: Sha256 | None = None  # of tokenizer.json; filled in by the server

    @check(mode="after")
    def _named(self) -> Self:
        if (self.kind == "huggingface") != (self.name is not None):
            raise ValueError("a name is needed with kind 'huggingface', and only there")
        return self


class DataConfig(Section):
    """What is trained on. Paths name files of the server, never of a worker."""

    source: Literal["python_stdlib", "distributed_dummy", "text", "huggingface"] = "python_stdlib"
    name: str | None = None  # huggingface: short name or hub id
    paths: tuple[str, ...] = ()  # text: files or folders of the server
    subset: str | None = None  # huggingface: the dataset's configuration name
    split: str = "train"
    revision: str = "main"  # the server pins it to a commit
    text_column: str = "text"
    tokenizer: TokenizerConfig = TokenizerConfig()
    seq_len: Annotated[int, Field(ge=8, le=65536)] = 128  # tokens
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.05  # of the files (documents, for the hub)
    fingerprint: Sha256 | None = None  # of the prepared data; filled in by the server

    @check(mode="after")
    def _source_has_what_it_needs(self) -> Self:
        if (self.source == "text") != bool(self.paths):
            raise ValueError("paths are needed with source 'text', and only there")
        if (self.source == "huggingface") != (self.name is not None):
            raise ValueError("a name is needed with source 'huggingface', and only there")
        return self


class BatchConfig(Section):
    """One step is `micro_batches` micro-batches of `micro_batch_blocks` blocks, whoever computes them."""

    micro_batch_blocks: PositiveInt = 8
    micro_batches: PositiveInt = 2


class OptimizerConfig(Section):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) with warm-up, decay to `min_lr_ratio`, and norm clipping.

    `muon` (Jordan et al., 2024): for the matrices of the blocks, AdamW for the rest; for clusters of one.
    `onebit_adam` (Tang et al., arXiv 2102.02888): after a warm-up with AdamW, gradients travel as signs.
    """

    name: Literal["adamw", "muon", "onebit_adam"] = "adamw"
    lr: PositiveFloat = 3e-3  # AdamW's; the schedule applies to Muon's too
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1  # not applied to parameters of one dimension
    clip_norm: PositiveFloat | None = 1.0  # of the whole gradient, over all members
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 20  # a shorter run ends on its way up
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    muon_lr: PositiveFloat = 0.02
    muon_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95  # Nesterov's

    onebit_warmup_ratio: Annotated[float, Field(gt=0, le=0.2)] = 0.2  # of the run's steps

    def onebit_warmup_steps(self, steps: int) -> int:
        """Steps of AdamW before 1-bit Adam compresses, in a run of `steps`; at least one, for a variance."""
        return max(1, int(steps * self.onebit_warmup_ratio))

    def state_bytes(self, owned: int, total: int) -> int:
        """What a member keeps that owns `owned` of the model's `total` elements, padding included: all in fp32.

        Weights, gradient and two moments of its own; 1-bit Adam's momentum and residual of the whole model.
        """
        return 16 * owned + (8 * total if self.name == "onebit_adam" else 0)

    def require_members(self, count: int) -> None:
        """ConfigInvalid when a cluster of `count` members cannot use this optimizer."""
        if self.name == "muon" and count > 1:
            raise ConfigInvalid(
                f"optimizer.name 'muon' needs whole matrices on one member, and the cluster has {count}",
                hint="Set cluster.policy to 'solo', or optimizer.name to 'adamw'.",
            )


class ClusterConfig(Section):
    """Who forms a cluster, and how its members share the model (ZeRO-3).

    `one`: all workers are one cluster. The others average by rounds: `solo`: clusters of one; `fixed`: of `size`;
    `auto`: of one where a worker can hold the model alone, else of workers that are near each other, as measured.
    """

    policy: Literal["one", "solo", "fixed", "auto"] = "auto"
    size: PositiveInt | None = None  # workers in a cluster; for policy 'fixed'
    claims: Literal["static", "dynamic"] = "dynamic"
    reduce_every: Literal["micro_batch", "step"] = "micro_batch"
    reshard_after_forward: bool = True  # free a unit between its forward and its backward
    restore_every: Annotated[int, Field(ge=0)] = 8  # steps between restore points of a cluster of several; 0: none
    prefetch_units: Annotated[int, Field(ge=0, le=8)] = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast where the device computes it natively

    @check(mode="after")
    def _sized(self) -> Self:
        if (self.policy == "fixed") != (self.size is not None):
            raise ValueError("a size is needed with policy 'fixed', and only there")
        return self

    def restores(self, members: int) -> bool:
        """Whether a cluster of so many keeps restore points: it may lose a member, or is to get one that it lacks."""
        return self.restore_every > 0 and max(members, self.size or 1) > 1


class RoundsConfig(Section):
    """How clusters average what they learned: H local steps, then a compressed exchange."""

    steps: PositiveInt = 16  # H: of each cluster between two anchors
    codec: RoundCodecName = "int4"  # of contributions; auto: the richest that each sender's uplink carries
    density: float = 1 / 64  # topk: the share of values that is sent, 1/64 or 1/16
    update_codec: Literal["none", "bf16", "int8", "int4", "topk240x4"] = "int4"  # of what comes back
    feedback: Literal["residual", "buffer"] = "residual"  # where what was not sent waits: local weights, or a buffer
    decay: Annotated[float, Field(ge=0, le=1)] = 0.95  # of the buffer, per round
    flush_every: PositiveInt = 16  # rounds: a dense contribution, after which local weights are the anchor
    mean_over: Literal["auto", "participants", "senders"] = "auto"  # of a coordinate that some did not send
    outer_lr: PositiveFloat = 1.0
    outer_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0  # Nesterov's; part of the anchor's state
    overlap: bool = True  # train on while the exchange is under way, at most H steps
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.6  # of the tokens of participants that are alive
    grace_s: PositiveFloat = 5.0  # for the others, once the quorum is there
    deadline_s: PositiveFloat = 600.0  # after which a reducer closes, and its backup takes over when it is silent
    audit: Annotated[float, Field(ge=0, le=1)] = 0.05  # share of the spans that a second worker combines, to compare
    checkpoint_every: PositiveInt = 10  # rounds; the last one is always a checkpoint
    log_keep: PositiveInt = 64  # rounds whose updates are kept

    @check(mode="after")
    def _known_density(self) -> Self:
        if self.density not in (1 / 64, 1 / 16):
            raise ValueError("density is 0.015625 or 0.0625")
        return self


class CodecsConfig(Section):
    """What travels inside a cluster: quantised once at the sender, summed in fp32 at the owner."""

    weights: CodecName = "none"
    gradients: CodecName = "none"


class StartConfig(Section):
    """The run starts when `workers` are ready, or with whoever is ready `wait_s` after the first."""

    workers: PositiveInt = 1
    wait_s: PositiveFloat = 600.0


class CheckpointConfig(Section):
    every_steps: PositiveInt = 200  # the last step is always a checkpoint
    keep: PositiveInt = 3


class EvaluationConfig(Section):
    """Validation loss on held-out text, computed by the cluster itself."""

    every_steps: NonNegativeInt = 0  # 0: at the end only
    max_blocks: PositiveInt = 400
    sample_tokens: Annotated[int, Field(ge=0, le=500)] = 128  # that the model then writes, in 5 s; 0: none


class RunConfig(Section):
    """Everything that defines a run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    batch: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    cluster: ClusterConfig = ClusterConfig()
    codecs: CodecsConfig = CodecsConfig()
    rounds: RoundsConfig = RoundsConfig()
    start: StartConfig = StartConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    steps: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1000
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0

    @check(mode="after")
    def _optimizer_fits_clusters(self) -> Self:
        if self.optimizer.name == "muon" and (self.cluster.size or 1) > 1:
            raise ValueError("optimizer.name 'muon' needs clusters of one member: set cluster.policy to 'solo'")
        return self

    @property
    def in_rounds(self) -> bool:
        """Whether several clusters average by rounds; else all workers are one cluster."""
        return self.cluster.policy != "one"

    @property
    def averaging(self) -> RoundsConfig:
        """`rounds`, with what `mean_over` leaves open: docs/convergence.md says why it depends on the optimizer."""
        if self.rounds.mean_over != "auto":
            return self.rounds
        sparse_steps_count_in_full = self.rounds.codec == "topk" and self.optimizer.name != "muon"
        return self.rounds.model_copy(update={"mean_over": "senders" if sparse_steps_count_in_full else "participants"})

    @property
    def round_count(self) -> int:
        """Of the whole run; every cluster makes `rounds.steps` steps in each."""
        return -(-self.steps // self.rounds.steps)


def config_digest(config: RunConfig) -> str:
    """SHA-256 of the configuration as canonical JSON: what a plan and a checkpoint say they belong to.

    Without `start` and `cluster.size`: how many workers a run waits for, and how they share its model, does not change
    what it trains; a resumed run may have others.
    """
    content = config.model_dump(mode="json", exclude={"start": True, "cluster": {"size"}})
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(body.encode()).hexdigest()


# The flat names of earlier tools, accepted by PUT /training/config beside the nested ones.
ALIASES = {
    "dataset_type": ("data", "source"),
    "dataset_name": ("data", "name"),
    "model_size": ("model", "preset"),
    "batch_size": ("batch", "micro_batch_blocks"),
    "seq_len": ("data", "seq_len"),
    "num_steps": ("steps",),
}


class Problem(NamedTuple):
    """One thing wrong with a configuration: where, what, and what is allowed there."""

    field: str
    problem: str
    allowed: str


def merge(config: RunConfig, change: dict[str, Any]) -> RunConfig:
    """`config` with a partial, possibly flat body merged in; the whole is validated.

    Raises ConfigInvalid with `details["errors"]`, a list of Problem, when the result is not a valid configuration.
    """
    body = config.model_dump(mode="json")
    for key, value in change.items():
        path = ALIASES.get(key, (key,))
        _merge_into(body, path, value)
    return validate(body)


def validate(body: dict[str, Any]) -> RunConfig:
    """A RunConfig from plain JSON values, or ConfigInvalid naming every field that is wrong."""
    try:
        return RunConfig.model_validate(body)
    except ValidationError as error:
        # A value that may have several types is wrong once for each of them, but it is one problem.
        problems = list(dict.fromkeys(_problem(dict(entry)) for entry in error.errors(include_url=False)))
        listed = "; ".join(
            f"{p.field}: {p.problem}" + (f" (allowed: {p.allowed})" if p.allowed else "") for p in problems
        )
        raise ConfigInvalid(listed, errors=problems) from error


def _merge_into(body: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        body = body[parent]
        if not isinstance(body, dict):
            return  # the parent itself is wrong: validation names it
    known = body.get(last)
    # `model.settings` is one value, like a number: a new preset must not inherit another's overrides.
    if isinstance(value, dict) and isinstance(known, dict) and last != "settings":
        for key, inner in value.items():
            _merge_into(known, (key,), inner)
    else:
        body[last] = value


# What pydantic's error types ask for, by their first word.
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "dict": "an object",
    "model": "an object",
}


def _problem(entry: dict[str, Any]) -> Problem:
    context = entry.get("ctx") or {}
    allowed = str(context.get("expected", context.get("pattern", _KINDS.get(entry["type"].split("_")[0], ""))))
    for bound, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
        if bound in context:
            allowed = f"{sign} {context[bound]}"
    if entry["type"] == "extra_forbidden":
        allowed = "one of the fields that GET /training/config shows"
    place = [str(part) for part in entry["loc"]]
    if place[:2] == ["model", "settings"] and len(place) > 2:
        return Problem(".".join(place[:3]), "not a plain value", "a number, a text, true, false or null")
    return Problem(".".join(place) or "(whole)", entry["msg"].removeprefix("Value error, "), allowed)
