"""The schema of a config: its sections, their keys, defaults and valid values.

Knows the names and signatures of estimators, reweighters, schedules and verifiers; loads no model,
no data and no framework, and reads no file (config.py does).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from asymrl.algo.advantages import ADVANTAGES
from asymrl.algo.reweight import REWEIGHT
from asymrl.algo.schedules import SCHEDULES, StepStats
from asymrl.types import Groups, TokenGroups
from asymrl.verifiers import VERIFIERS

METHOD_SECTIONS = ("advantage", "reweight", "schedule")
Positive = Annotated[int, Field(ge=1, le=10**12)]  # what reckons with it stays printable
NonNegative = Annotated[int, Field(ge=0, le=2**63 - 1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=100)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ShapeConfig(Section):
    """The backbone's sizes, so that a dry run needs no network; checked when the model loads."""

    layers: Positive
    hidden: Positive
    intermediate: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    vocab: Positive
    tied: bool


class ModelConfig(Section):
    path: Annotated[str, Field(min_length=1)]  # a local folder, a Hugging Face id, or `pocket`
    revision: str | None = None
    trust_remote_code: bool = False  # run the code that a model brings along
    allow_pickle: bool = False  # read pytorch_model.bin where there is no safetensors file
    shape: ShapeConfig | None = None


class DataConfig(Section):
    train: str  # a name in data.SOURCES, or a local .jsonl, .json, .csv or .parquet file
    problem_field: str = "problem"  # of local files; named sources know their own
    answer_field: str = "answer"
    system: str | None = None
    user: str = "{problem}"
    chat_template_kwargs: dict[str, Any] = {}
    max_prompt_tokens: Positive = 1024
    unparseable_gold: Literal["exact", "refuse"] = "exact"
    limit: Positive | None = None  # the first so many problems only

    @property
    def prompt(self) -> dict[str, Any]:
        """How a problem becomes a prompt: what a checkpoint keeps in asymrl.json."""
        return {
            "system": self.system,
            "user": self.user,
            "template_kwargs": self.chat_template_kwargs,
        }


class RolloutConfig(Section):
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


class VerifierConfig(Section):
    """What judges responses. The defaults are those for training: strict about what is an answer,
    so that the policy learns to give one, and exact about what it is worth."""

    name: str = "math"  # or exact, or math_verify: the library as TRL calls it (docs/verifier.md)
    workers: Positive = 1  # processes, on each rank; one keeps up with generation
    timeout: Annotated[float, Field(gt=0, le=3600)] = 5.0  # seconds a response; most take 1 ms
    unboxed: bool = False  # whether "the answer is 7" counts where there is no box
    thinking: bool = False  # whether text before the last </think> counts
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0  # relative, where the gold is a decimal


class MethodConfig(Section):
    """`name` in METHODS; all other keys are that function's keyword parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    METHODS: ClassVar[Mapping[str, Callable[..., Any]]]
    example: ClassVar[Callable[[], tuple[Any, ...]]]  # what a function is given, but for keywords
    name: str

    @model_validator(mode="before")
    @classmethod
    def fill_in_defaults(cls, given: Any) -> Any:
        """The function's own defaults, so that config.yaml and the metrics state them."""
        if isinstance(given, dict) and given.get("name") in list(cls.METHODS):
            known = keywords(cls.METHODS[given["name"]])
            defaults = {p.name: p.default for p in known if p.default is not p.empty}
            return defaults | given
        return given

    @property
    def params(self) -> dict[str, Any]:
        """Numbers are floats, whether or not a file gives them a decimal point."""
        given = (self.model_extra or {}).items()
        return {key: float(x) if type(x) is int else x for key, x in given}


class AdvantageConfig(MethodConfig):
    METHODS = ADVANTAGES

    @staticmethod
    def example() -> tuple[Any, ...]:
        rewards, one = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2)
        return (Groups(rewards=rewards, valid=one.bool(), lengths=one.long(), mean_logprobs=-one),)


class ReweightConfig(MethodConfig):
    """What becomes of a rollout's advantage at each of its tokens."""

    METHODS = REWEIGHT
    name: str = "none"

    @staticmethod
    def example() -> tuple[Any, ...]:
        one, row = torch.ones(1), torch.zeros(1, dtype=torch.long)
        tokens = {"advantages": one, "logprobs": -one, "entropy": one, "loss_mask": one}
        return (TokenGroups(**tokens, row=row, group=row),)


class ScheduleConfig(MethodConfig):
    """How the estimator's betas move during the run."""

    METHODS = SCHEDULES
    name: str = "constant"

    @staticmethod
    def example() -> tuple[Any, ...]:
        seen = StepStats(step=1, steps=2, accuracy=(0.5,), kappa=0.1, entropy=1.0)
        return {"beta_pos": 0.5, "beta_neg": 0.5}, seen


class LossConfig(Section):
    aggregation: Literal["token_mean", "prompt_mean", "seq_mean", "constant"] = "token_mean"
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    entropy_bonus: Rate = 0.0
    constant_length: Positive | None = None  # of `constant`; default rollout.max_tokens
    # against what the engine's numerics differ from the policy's: algo/importance.py
    importance_sampling: Literal["off", "token", "sequence"] = "off"
    importance_cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0


class OptimConfig(Section):
    lr: Rate
    minibatch_prompts: Positive
    epochs: Positive = 1  # passes over each rollout batch
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    weight_decay: Rate = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    warmup_updates: NonNegative = 0
    max_skipped: Positive = 3  # updates in a row with a loss or gradient that is not finite


class PolicyConfig(Section):
    backend: Literal["auto", "local", "deepspeed"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the forward pass; weights stay fp32
    offload_optimizer: bool = False  # deepspeed: AdamW's states live and step on the CPU
    token_budget: Positive = 16384  # padded tokens in a micro-batch
    gradient_checkpointing: bool = False
    threads: NonNegative = 0  # CPU threads; 0 leaves torch's own choice


class EvalConfig(Section):
    every: Positive = 10
    benchmarks: list[str] = []
    samples: Positive = 1
    temperature: Temperature = 0.0
    max_tokens: Positive | None = None  # default rollout.max_tokens
    limit: Positive | None = None
    patience: Positive | None = None  # stop early after so many evaluations without a better one


class BestOnConfig(Section):
    best_on: str  # a benchmark of eval.benchmarks


class CheckpointConfig(Section):
    every: Positive = 50
    keep: Positive = 1  # the newest so many, and the selected one
    select: Literal["last"] | BestOnConfig = "last"

    @property
    def best_on(self) -> str | None:
        return None if self.select == "last" else self.select.best_on


class DeadlinesConfig(Section):
    """Minutes without news (a phase that begins, a response that is finished) after which a run
    is taken for stuck and ended, by the phase that it is in."""

    load: Minutes = 120.0
    generate: Minutes = 60.0
    verify_wait: Minutes = 15.0
    sleep: Minutes = 30.0
    score: Minutes = 60.0
    update: Minutes = 120.0
    gain: Minutes = 60.0
    sync: Minutes = 30.0
    evaluate: Minutes = 60.0
    save: Minutes = 60.0


class WarnConfig(Section):
    """Bounds past which a metric is called out; nothing else happens (asymrl/run/alerts.py)."""

    entropy_below: Rate = 0.02  # policy/entropy, nats a token
    entropy_above: Rate = 2.0
    truncated_above: Rate = 0.25  # rollout/truncated, a share of the responses
    verifier_failures_above: Rate = 0.01  # verdict/timeout + verdict/crashed, a share
    mismatch_above: Rate = 0.05  # rollout/logprob_mismatch_mean, nats a token


class TrackingConfig(Section):
    wandb: Literal["off", "online", "offline"] = "off"
    project: str = "asymrl"
    rollouts_every: Positive = 10
    logprob_gain_every: NonNegative = 10  # steps; 0 never: it costs a forward pass


class Config(Section):
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    verifier: VerifierConfig = VerifierConfig()
    advantage: AdvantageConfig
    reweight: ReweightConfig = ReweightConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    optim: OptimConfig
    policy: PolicyConfig = PolicyConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    deadlines: DeadlinesConfig = DeadlinesConfig()
    warn: WarnConfig = WarnConfig()
    seed: NonNegative = 0
    steps: Positive

    @model_validator(mode="after")
    def check_combinations(self) -> Config:
        check_choice("verifier.name", self.verifier.name, VERIFIERS)
        for key in METHOD_SECTIONS:
            check_params(key, getattr(self, key))
        check_schedule(self)
        check_selection(self)
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


def keywords(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The keyword-only parameters: what a config may set."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


def check_params(key: str, method: MethodConfig) -> None:
    """The function's own signature says which parameters it takes, and of what kind, and its own
    assertions which values are valid: it is tried on an example."""
    check_choice(f"{key}.name", method.name, method.METHODS)
    known = {p.name: p for p in keywords(method.METHODS[method.name])}
    given = method.model_extra or {}
    for name in given:
        if name not in known:
            takes = ", ".join(known) or "no parameters"
            raise ValueError(f"{key}.{name}: {method.name} takes {takes}")
    for name, parameter in known.items():
        if name not in given:
            raise ValueError(f"{key}.{name} is missing: {method.name} needs it")
        check_param(f"{key}.{name}", given[name], get_args(parameter.annotation))
    try:
        method.METHODS[method.name](*method.example(), **method.params)
    except AssertionError as error:
        raise ValueError(f"{key}.name = {method.name!r}: {error}") from None


def check_param(key: str, given: Any, choices: Sequence[str]) -> None:
    """One of the choices, where a signature names some; a number otherwise."""
    if choices:
        check_choice(key, given, choices)
    elif isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 40:
        raise ValueError(f"{key} = {given!r} must be a number from 0 to 40")


def check_selection(config: Config) -> None:
    """The best checkpoint is one that was evaluated: each saved one must be."""
    if config.eval.patience and not config.eval.benchmarks:
        raise ValueError(
            f"eval.patience = {config.eval.patience} waits for better evaluations, and "
            "eval.benchmarks names none"
        )
    best_on = config.checkpoint.best_on
    if best_on is None:
        return
    names = [PurePath(benchmark).stem for benchmark in config.eval.benchmarks]
    check_choice("checkpoint.select.best_on", best_on, names)
    if config.checkpoint.every % config.eval.every:
        raise ValueError(
            f"checkpoint.every = {config.checkpoint.every} must be a multiple of eval.every = "
            f"{config.eval.every}, so that best_on has a score of every checkpoint"
        )


def check_schedule(config: Config) -> None:
    """A schedule moves betas, so there must be some."""
    moves = config.schedule.name != "constant"
    if moves and not {"beta_pos", "beta_neg"} <= config.advantage.params.keys():
        raise ValueError(
            f"schedule.name = {config.schedule.name!r} moves beta_pos and beta_neg, which "
            f"advantage.name = {config.advantage.name!r} has not; asym and the flips have them"
        )
