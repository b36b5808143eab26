"""The configuration: its schema, how files and overrides are merged, how errors read.

Knows OmegaConf and pydantic and the names of estimators, aggregations and verifiers; loads no
model, no data and no framework. Every error is a `UserError`: key, value, what is valid.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from asymrl.algo.advantages import ADVANTAGES
from asymrl.types import UserError
from asymrl.verifiers import VERIFIERS

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
# Which engines run it, and how they share the machine: a run may move to another machine.
WHERE_IT_RUNS = (
    "policy.backend",
    "policy.offload_optimizer",
    "policy.threads",
    "rollout.engine",
    "rollout.tensor_parallel",
    "rollout.gpu_memory_utilization",
    "rollout.enforce_eager",
)
# What may differ between a run and its continuation: it changes what comes, not what was.
FREE_ON_RESUME = ("steps", "tracking", "checkpoint", *WHERE_IT_RUNS)

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=100)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shape(Section):
    """The backbone's sizes, so that a dry run needs no network; checked when the model loads."""

    layers: Positive
    hidden: Positive
    intermediate: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    vocab: Positive
    tied: bool


class Model(Section):
    path: Annotated[str, Field(min_length=1)]  # a local folder, a Hugging Face id, or `pocket`
    revision: str | None = None
    trust_remote_code: bool = False
    shape: Shape | None = None


class Data(Section):
    train: str  # a name in data.SOURCES, or a local .jsonl, .json, .csv or .parquet file
    problem_field: str = "problem"  # of local files; named sources know their own
    answer_field: str = "answer"
    system: str | None = None
    user: str = "{problem}"
    chat_template_kwargs: dict[str, Any] = {}
    max_prompt_tokens: Positive = 1024
    unparseable_gold: Literal["exact", "refuse"] = "exact"
    limit: Positive | None = None  # the first so many problems only


class Rollout(Section):
    engine: Literal["auto", "hf", "vllm"] = "auto"
    prompts: Positive
    group_size: Annotated[int, Field(ge=2)]
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: NonNegative = 0
    max_tokens: Positive
    stop: list[str] = []  # further stop tokens, beside those that the model names
    truncation: Literal["score", "zero", "mask"] = "score"
    max_rows: Positive = 512  # sampled at a time, on each engine
    sync_check_every: Positive = 50
    # vLLM only
    tensor_parallel: Positive = 1  # GPUs that share one engine
    per_sample_seeds: bool = False  # tokens that do not depend on the batch; slower on GPU
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=0.95)] = 0.7  # while it generates
    enforce_eager: bool = False  # no CUDA graphs


class Verifier(Section):
    """What judges responses. The defaults are those for training: strict about what is an answer,
    so that the policy learns to give one, and exact about what it is worth."""

    name: str = "math"
    workers: Positive = 1  # processes, on each rank; one keeps up with generation
    timeout: Annotated[float, Field(gt=0, le=3600)] = 5.0  # seconds a response; most take 1 ms
    unboxed: bool = False  # whether "the answer is 7" counts where there is no box
    thinking: bool = False  # whether text before the last </think> counts
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0  # relative, where the gold is a decimal


class Advantage(Section):
    """`name` in ADVANTAGES; all other keys are that estimator's keyword parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def fill_in_defaults(cls, given: Any) -> Any:
        """The estimator's own defaults, so that config.yaml and the metrics state them."""
        if isinstance(given, dict) and given.get("name") in list(ADVANTAGES):
            parameters = inspect.signature(ADVANTAGES[given["name"]]).parameters.values()
            defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
            return defaults | given
        return given

    @property
    def params(self) -> dict[str, float]:
        return {name: float(number) for name, number in (self.model_extra or {}).items()}

    @property
    def metrics(self) -> dict[str, float]:
        return {f"advantage/{name}": number for name, number in self.params.items()}


class Loss(Section):
    aggregation: Literal["token_mean", "prompt_mean", "seq_mean", "constant"] = "token_mean"
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    entropy_bonus: Rate = 0.0
    constant_length: Positive | None = None  # of `constant`; default rollout.max_tokens
    # against what the engine's numerics differ from the policy's: algo/importance.py
    importance_sampling: Literal["off", "token", "sequence"] = "off"
    importance_cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0


class Optim(Section):
    lr: Rate
    minibatch_prompts: Positive
    epochs: Positive = 1  # passes over each rollout batch
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    weight_decay: Rate = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    warmup_updates: NonNegative = 0


class Policy(Section):
    backend: Literal["auto", "local", "deepspeed"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the forward pass; weights stay fp32
    offload_optimizer: bool = False  # deepspeed: AdamW's states live and step on the CPU
    token_budget: Positive = 16384  # padded tokens in a micro-batch
    gradient_checkpointing: bool = False
    threads: NonNegative = 0  # CPU threads; 0 leaves torch's own choice


class Eval(Section):
    every: Positive = 10
    benchmarks: list[str] = []
    samples: Positive = 1
    temperature: Temperature = 0.0
    max_tokens: Positive | None = None  # default rollout.max_tokens
    limit: Positive | None = None


class Checkpoint(Section):
    every: Positive = 50
    keep: Positive = 1
    select: Literal["last"] = "last"


class Tracking(Section):
    wandb: Literal["off", "online", "offline"] = "off"
    project: str = "asymrl"
    rollouts_every: Positive = 10
    logprob_gain_every: NonNegative = 10  # steps; 0 never: it costs a forward pass


class Config(Section):
    model: Model
    data: Data
    rollout: Rollout
    verifier: Verifier = Verifier()
    advantage: Advantage
    loss: Loss = Loss()
    optim: Optim
    policy: Policy = Policy()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    tracking: Tracking = Tracking()
    seed: NonNegative = 0
    steps: Positive

    @model_validator(mode="after")
    def check_combinations(self) -> Config:
        check_choice("advantage.name", self.advantage.name, ADVANTAGES)
        check_choice("verifier.name", self.verifier.name, VERIFIERS)
        check_advantage_params(self.advantage)
        if self.rollout.top_p != 1 or self.rollout.top_k != 0:
            raise ValueError(
                f"rollout.top_p = {self.rollout.top_p}, rollout.top_k = {self.rollout.top_k}: "
                "training must sample from the policy itself, so only top_p 1 and top_k 0 are valid"
            )
        if self.rollout.prompts % self.optim.minibatch_prompts:
            raise ValueError(
                f"optim.minibatch_prompts = {self.optim.minibatch_prompts} must divide "
                f"rollout.prompts = {self.rollout.prompts}"
            )
        check_user_turn(self.data.user)
        return self


def check_choice(key: str, name: str, valid: Any) -> None:
    if name not in valid:
        raise ValueError(f"{key} = {name!r} is not one of {', '.join(sorted(valid))}")


def check_user_turn(user: str) -> None:
    """`data.user` is filled in by replacing {problem}; all other braces are left as they are."""
    if "{problem}" not in user:
        raise ValueError(f"data.user = {user!r} must contain {{problem}}")


def check_advantage_params(advantage: Advantage) -> None:
    """The estimator's own signature says which parameters it takes; all are numbers >= 0."""
    parameters = inspect.signature(ADVANTAGES[advantage.name]).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for name, given in (advantage.model_extra or {}).items():
        if name not in known:
            raise ValueError(
                f"advantage.{name}: {advantage.name} takes {', '.join(known) or 'no parameters'}"
            )
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 40:
            raise ValueError(f"advantage.{name} = {given!r} must be a number from 0 to 40")
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in (advantage.model_extra or {}):
            raise ValueError(f"advantage.{name} is missing: {advantage.name} needs it")


def load(config: str, overrides: Sequence[str] = ()) -> Config:
    """The config of a path or a bare name in configs/, with `key.sub=value` overrides on top."""
    path = find(config)
    merged = read(path)
    if "base" in merged:
        base = read(path.parent / str(merged.pop("base")))
        if "base" in base:
            raise UserError(f"{path}: its base has a base itself; one level is all there is")
        merged = merge(base, merged)
    for override in overrides:
        if not re.match(r"[A-Za-z_][\w.]*=", override):
            raise UserError(f"override {override!r} is not of the form key.sub=value")
    try:
        merged = merge(merged, OmegaConf.from_dotlist(list(overrides)))
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"{path}: {first_line(error)}") from None
    return validate(plain, str(path))


def merge(base: Any, top: Any) -> Any:
    """`top` over `base`; another estimator starts from its own parameters, not from the base's."""
    name = OmegaConf.select(top, "advantage.name")
    if name is not None and name != OmegaConf.select(base, "advantage.name"):
        base.pop("advantage", None)
    return OmegaConf.merge(base, top)


def find(config: str) -> Path:
    bare = config.removesuffix(".yaml")
    for candidate in (Path(config), CONFIG_DIR / f"{bare}.yaml"):
        if is_file(candidate):
            return candidate
    names = [path.stem for path in sorted(CONFIG_DIR.glob("*.yaml"))]
    nearest = difflib.get_close_matches(bare, names, n=3) or names
    raise UserError(
        f"config {config!r} is neither a file nor a name in configs/; "
        f"the nearest are {', '.join(nearest)}"
    )


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file system takes
        return False


def read(path: Path) -> Any:
    try:
        loaded = OmegaConf.load(path)
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {first_line(error)}") from None
    if not OmegaConf.is_dict(loaded):
        raise UserError(f"{path} must be a mapping of config keys to values")
    return loaded


def first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def validate(plain: Any, where: str) -> Config:
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        raise UserError(f"{where}: {sentence(error)}") from None


def sentence(error: ValidationError) -> str:
    """The first error as one sentence; unknown keys first, since they explain missing ones."""
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = valid_keys(first["loc"][:-1])
        nearest = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        return f"unknown key {key}; {hint}valid here: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key} = {first['input']!r}: {message[0].lower()}{message[1:]}"


def valid_keys(location: Sequence[int | str]) -> list[str]:
    section: Any = Config
    for part in location:
        annotation = section.model_fields[part].annotation
        section = next(a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields"))
    return list(section.model_fields)


def dump(config: Config) -> str:
    """The resolved config as YAML: what a run directory keeps as config.yaml."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def differing_keys(one: Config, other: Config) -> list[str]:
    """Dotted keys whose values differ, but for those in FREE_ON_RESUME."""
    flat_one, flat_other = flatten(one.model_dump()), flatten(other.model_dump())
    return sorted(
        key
        for key in flat_one.keys() | flat_other.keys()
        if flat_one.get(key) != flat_other.get(key)
        and not {key, key.split(".")[0]} & set(FREE_ON_RESUME)
    )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, node in tree.items():
        if isinstance(node, dict) and node:
            flat |= flatten(node, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = node
    return flat
