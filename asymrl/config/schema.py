"""The schema of a config: its sections, their keys, defaults and valid values.

Uses the names and signatures of estimators, reweighters, schedules and verifiers. Loads no model,
no data and no training framework. Reads no file (load.py does) but those of functions by path.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from asymrl import by_path
from asymrl.algo.advantages import ADVANTAGES
from asymrl.algo.loss import LOSSES, KLEstimator
from asymrl.algo.reweight import REWEIGHT
from asymrl.algo.schedules import SCHEDULES, StepStats
from asymrl.by_path import FORM, is_by_path
from asymrl.config.own_functions import (
    call_own,
    example_groups,
    example_loss_inputs,
    example_tokens,
    is_finite,
    try_own_loss,
    with_digests,
)
from asymrl.errors import UserError, short_repr
from asymrl.files import short_name
from asymrl.pocket import SEEDED
from asymrl.verifiers import VERIFIERS
from asymrl.verifiers.reasoning_gym import PREFIX, TASKS, check_benchmark, tasks_of

RAW = "none"  # the value of data.chat_template for prompts without a template
ALL_LINEAR = "all-linear"  # the value of policy.lora.targets for all linear layers of the blocks
GREEDY = "greedy"  # the evaluation setting that early stopping and best_on read
MAX_TRIAL = (
    2**20
)  # rollouts of a step, up to which a function by path is tried with the run's own sizes
Positive = Annotated[int, Field(ge=1, le=10**12)]  # bounded so that products fit in a message
NonNegative = Annotated[int, Field(ge=0, le=2**63 - 1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=100)]
# YAML reads a bare `off` as false
OFF = BeforeValidator(lambda value: "off" if value is False else value)

SettingName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]


class StrictModel(BaseModel):
    """A frozen model that accepts no unknown keys and converts no types. The docstring under a key
    is its description, which the reference of the documentation lists."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class ShapeConfig(StrictModel):
    """Sizes of the backbone, so that a dry run needs no network. Checked when the model loads."""

    layers: Positive
    """Transformer blocks."""
    hidden: Positive
    """Width of the residual stream."""
    intermediate: Positive
    """Width of the MLP's hidden layer."""
    heads: Positive
    """Attention heads."""
    kv_heads: Positive
    """Heads of keys and values."""
    head_dim: Positive
    """Width of an attention head."""
    vocab: Positive
    """Rows of the embedding, padding included."""
    tied: bool
    """Whether the LM head is the embedding."""


class ModelConfig(StrictModel):
    """The model that is trained."""

    path: Annotated[str, Field(min_length=1)]
    """A model folder, a hub id, or a model made here: pocket, pocket_short, smollm2_135m."""
    revision: str | None = None
    """The commit, tag or branch of a hub model; null: its main branch."""
    trust_remote_code: bool = False
    """Run Python code from the model's repository."""
    allow_pickle: bool = False
    """Read pytorch_model.bin if there is no safetensors file, which may run code in it."""
    shape: ShapeConfig | None = None
    """Sizes of the model for the dry run's memory estimate; null: read from its config.json, if
    that is on this machine."""


class ReasoningGymConfig(StrictModel):
    """Which problems `reasoning_gym:<task>` has (data/reasoning_gym.py). As a benchmark it is the
    task's held-out problems, which depend on the difficulty only."""

    size: Annotated[int, Field(ge=1, le=10**6)] = 1000
    """Different training problems of each task."""
    seed: NonNegative = 0
    """The seed of the training problems."""
    difficulty: Any = None
    """A level from 0 for all tasks; or task -> a level or values of the task's own parameters, as
    in {gcd: 1, chain_sum: {max_terms: 3}}; null: the defaults of reasoning-gym."""

    @field_validator("difficulty")
    @classmethod
    def check_difficulty(cls, difficulty: Any) -> Any:
        for task, level in difficulty.items() if isinstance(difficulty, dict) else ():
            if task not in TASKS:
                raise ValueError(f"{short_repr(task)} must be one of {', '.join(TASKS)}")
            values = level.values() if isinstance(level, dict) else [level]
            if not all(is_level(x) or (isinstance(level, dict) and is_finite(x)) for x in values):
                raise ValueError(
                    f"{task}: {short_repr(level)} must be a level from 0, or numbers for "
                    "parameters of the task: {max_terms: 3}"
                )
        if not (difficulty is None or isinstance(difficulty, dict) or is_level(difficulty)):
            raise ValueError(
                "must be a level from 0, null, or task -> level or {parameter: number}"
            )
        return difficulty


def is_level(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class DataConfig(StrictModel):
    """The training problems, and how a problem becomes a prompt."""

    train: Annotated[str, Field(min_length=1)]
    """A named source (asymrl/data/sources.py), a local .jsonl, .json, .csv or .parquet file, a hub
    data set, or reasoning_gym:<task>[,<task>...]."""
    config: str | None = None
    """The config of a hub data set to train on."""
    split: str | None = None
    """The split of a hub data set to train on; null: train."""
    problem_field: Annotated[str, Field(min_length=1)] | None = None
    """The column of the problems in files and hub data sets, benchmarks included; null: the first
    of problem, question and prompt."""
    answer_field: Annotated[str, Field(min_length=1)] | None = None
    """The column of the answers in files and hub data sets, benchmarks included; null: the first of
    answer, solution and final_answer."""
    system: str | None = None
    """The system turn of each prompt; null: none."""
    user: str = "{problem}"
    """The user turn of each prompt; {problem} is replaced by the problem."""
    chat_template: Annotated[str, Field(min_length=1)] | None = None
    """The path of a Jinja file; none: the prompt is the user turn as it is; null: the tokenizer's
    template."""
    chat_template_kwargs: dict[str, Any] = {}
    """Variables for the chat template, such as {enable_thinking: false}."""
    max_prompt_tokens: Positive = 1024
    """Problems with a longer prompt are left out, and counted."""
    unparseable_gold: Literal["exact", "refuse"] = "exact"
    """What to do with gold answers that the verifier cannot read: compare them as text, or stop."""
    limit: Positive | None = None
    """Use only this many problems, from the start; null: all."""
    reasoning_gym: ReasoningGymConfig | None = None
    """Which problems the sources reasoning_gym:<task> have."""

    @property
    def prompt(self) -> dict[str, Any]:
        """How a problem becomes a prompt; checkpoints store this in asymrl.json."""
        return {
            "system": self.system,
            "user": self.user,
            "template_kwargs": self.chat_template_kwargs,
            "raw": self.chat_template == RAW,
        }

    @property
    def gym(self) -> dict[str, Any]:
        """The keyword arguments of reasoning_gym.GymSettings."""
        return self.reasoning_gym.model_dump() if self.reasoning_gym else {}


class DynamicSamplingConfig(StrictModel):
    """Train on mixed groups only: prompts are drawn in rounds until rollout.prompts of them have
    both correct and wrong responses (DAPO, arXiv 2503.14476; training/dynamic_sampling.py)."""

    leftover: Literal["drop", "keep"] = "drop"
    """Mixed groups beyond rollout.prompts: drop them, as DAPO's code does, or keep them for the
    next step, which then trains on them with the log-probs of the policy that generated them."""
    max_rounds: Annotated[int, Field(ge=2, le=10**6)] = 10
    """Most rounds per step; if the batch is still not full, the run ends with an error (verl:
    max_num_gen_batches)."""


class OverlongConfig(StrictModel):
    """A penalty on long responses, subtracted from their advantages (algo/overlong.py)."""

    buffer: Positive
    """Tokens below rollout.max_tokens over which the penalty rises from 0."""
    penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """The penalty at rollout.max_tokens."""


class RolloutConfig(StrictModel):
    """How responses are sampled, and which of them a step trains on."""

    engine: Literal["auto", "hf", "vllm"] = "auto"
    """Who samples: transformers (hf) or vLLM; auto: vLLM on a GPU if it is installed, otherwise
    hf."""
    prompts: Positive
    """Prompts per step: the size of a rollout batch is prompts x group_size."""
    group_size: Annotated[int, Field(ge=2)]
    """Responses to each prompt (G)."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Sampling temperature; log-probs, entropy and loss are of the distribution at this
    temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Must be 1 in training: the policy that samples is the policy that learns."""
    top_k: NonNegative = 0
    """Must be 0, which is off, in training."""
    max_tokens: Positive
    """Longest response, stop token included."""
    stop: list[str] = []
    """Texts that end a response, each a single token; the model's own stop tokens do too."""
    truncation: Literal["score", "zero", "mask"] = "score"
    """What happens to a response without a stop token: verify it, give it reward 0, or leave it out
    of its group and the loss."""
    overlong: OverlongConfig | None = None
    """A penalty on long responses; null: none."""
    dynamic_sampling: DynamicSamplingConfig | None = None
    """Train on mixed groups only; null: on all groups."""
    max_rows: Positive = 512
    """Responses that each engine samples at a time."""
    sync_check_every: Positive = 50
    """Steps between checks that each weight tensor in the engine equals the policy's."""
    tensor_parallel: Positive = 1
    """With vLLM only: GPUs per engine."""
    per_sample_seeds: bool | None = None
    """With vLLM only: a sample's tokens depend on its own seed and not on the batch; null: on GPUs,
    where it is free."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=0.95)] = 0.7
    """With vLLM only: the share of a GPU's memory that it takes while generating."""
    enforce_eager: bool = False
    """With vLLM only: disable CUDA graphs."""


class VerifierConfig(StrictModel):
    """How responses are verified.

    The defaults are meant for training: they are strict about the place of the answer, so that the
    policy learns to give one, and exact about its value.
    """

    name: str = "math"
    """A verifier (math, exact, line, math_verify, which is that library as TRL calls it), or
    path/to/file.py:function."""
    workers: Positive = 1
    """Processes per rank; one keeps up with generation."""
    timeout: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds per response; most take a millisecond."""
    unboxed: bool = False
    """Accept "the answer is 7" from a response without a box."""
    thinking: bool = False
    """Also read the text before the last </think>."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest relative error of an answer whose gold is a decimal number."""


class MethodConfig(StrictModel):
    """`name` is a key of METHODS or a function by path; all other keys are keyword parameters of
    that function."""

    model_config = ConfigDict(
        extra="allow", frozen=True, strict=True, use_attribute_docstrings=True
    )
    SECTION: ClassVar[str]  # of the config
    METHODS: ClassVar[Mapping[str, Callable[..., Any]]]
    EXAMPLE: ClassVar[tuple[Any, ...]]  # positional arguments for a trial call
    name: str
    """The function: a name in asymrl/algo, or path/to/file.py:function."""

    @model_validator(mode="before")
    @classmethod
    def fill_in_defaults(cls, section: Any) -> Any:
        """Add the function's own defaults, so that config.yaml and the metrics state them."""
        default = cls.model_fields["name"].get_default()
        name = section.get("name", default) if isinstance(section, dict) else None
        if name in list(cls.METHODS) or is_by_path(name):
            return parameter_defaults(cls.find(name)) | section
        return section

    @classmethod
    def find(cls, name: str) -> Callable[..., Any]:
        return by_path.load(name).call if is_by_path(name) else cls.METHODS[name]

    @property
    def function(self) -> Callable[..., Any]:
        """The function of this name, without its parameters. What one of the user's own returns is
        checked at every call (own_functions.call_own)."""
        if is_by_path(self.name):
            return partial(call_own, self.SECTION, by_path.load(self.name))
        return self.find(self.name)

    @property
    def params(self) -> dict[str, Any]:
        """The keyword arguments of the function. Integers are converted to float."""
        extra = (self.model_extra or {}).items()
        return {key: float(x) if type(x) is int else x for key, x in extra}


class AdvantageConfig(MethodConfig):
    """The advantage estimator: a group's rewards -> a number for each response."""

    SECTION, METHODS, EXAMPLE = "advantage", ADVANTAGES, (example_groups(5, 4),)
    name: str
    """An advantage estimator, or path/to/file.py:function."""


class ReweightConfig(MethodConfig):
    """How a rollout's advantage is spread over its tokens."""

    SECTION, METHODS, EXAMPLE = "reweight", REWEIGHT, (example_tokens(5, 4),)
    name: str = "none"
    """A token reweighting, or path/to/file.py:function."""


class ScheduleConfig(MethodConfig):
    """How the estimator's parameters, such as beta_pos and beta_neg, change during the run."""

    SECTION, METHODS = "schedule", SCHEDULES
    EXAMPLE = (
        {"beta_pos": 0.5, "beta_neg": 0.5},
        StepStats(step=1, steps=2, accuracy=(0.5,), solved=0.5, kappa=0.1, entropy=1.0),
    )
    name: str = "constant"
    """A schedule, or path/to/file.py:function."""


class EntropyControlConfig(StrictModel):
    """Skywork's control of the entropy bonus (arXiv 2505.22312): after a step whose entropy is
    below the target the bonus rises by `step`, otherwise it falls. It starts at loss.entropy_bonus,
    stays within 0 and `max`, and is not applied in a step whose entropy is above the target."""

    target: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2
    """The entropy to hold, in nats per token."""
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    """By how much the bonus rises or falls after a step."""
    max: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.005
    """The largest bonus."""


class LossConfig(MethodConfig):
    """The token loss with its parameters; the keys listed here are common to all losses."""

    SECTION, METHODS, EXAMPLE = "loss", LOSSES, (example_loss_inputs(5, 4),)
    name: str = "ppo_clip"
    """A token loss, or path/to/file.py:function."""
    aggregation: Literal["token_mean", "prompt_mean", "seq_mean", "constant"] = "token_mean"
    """What token losses are divided by: the tokens of the mini-batch, those of a prompt, those of a
    response, or a constant length."""
    entropy_bonus: Rate = 0.0
    """Weight of the entropy in the loss, which subtracts it."""
    entropy_control: EntropyControlConfig | None = None
    """Control of the entropy bonus towards a target; null: the bonus is fixed."""
    kl_coef: Rate = 0.0
    """Weight of a KL penalty against the model before training (TRL: beta); above 0 it loads a
    frozen copy of that model, except with LoRA."""
    kl_estimator: KLEstimator = "k3"
    """How the KL divergence is estimated; k1 penalizes nothing (kl_to_reference in
    asymrl/algo/loss.py)."""
    constant_length: Positive | None = None
    """The length that aggregation constant divides by, in tokens; null: rollout.max_tokens."""
    importance_sampling: Annotated[Literal["off", "token", "sequence"], OFF] = "off"
    """Truncated importance sampling for the numerical difference between engine and policy, by
    token or by response; TRL's importance_sampling_level=sequence is loss.name=gspo."""
    importance_cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """The largest importance weight."""


METHOD_SECTIONS: Mapping[str, type[MethodConfig]] = {
    "advantage": AdvantageConfig,
    "reweight": ReweightConfig,
    "loss": LossConfig,
    "schedule": ScheduleConfig,
}


class OptimConfig(StrictModel):
    """AdamW, its learning rate, and how a rollout batch is cut into updates."""

    lr: Rate
    """The learning rate."""
    minibatch_prompts: Positive
    """Prompts per optimizer step; must divide rollout.prompts."""
    epochs: Positive = 1
    """Passes over each rollout batch."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    """AdamW's decay rates of its two moments."""
    weight_decay: Rate = 0.01
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after warmup, from lr towards lr_floor x lr at the end of the run; a run
    that resumes with another number of steps continues on the new curve."""
    lr_floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Where lr_schedule ends, as a fraction of lr."""
    warmup_updates: NonNegative = 0
    """Updates over which the learning rate rises from 0 to lr."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The same as a share of all updates; set one of the two."""
    max_skipped: Positive = 3
    """Stop after this many updates in a row that are not finite."""


class LoRAConfig(StrictModel):
    """Trains adapters on frozen weights W: the policy computes with W + (alpha / rank) B A
    (engines/lora.py)."""

    rank: Positive = 32
    """Rank of the adapters."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 64.0
    """The adapters are scaled by alpha / rank."""
    targets: str | list[str] = ALL_LINEAR
    """Names of linear layers, such as [q_proj, v_proj]; all-linear: all of the model's blocks."""

    @field_validator("targets")
    @classmethod
    def check_targets(cls, targets: str | list[str]) -> str | list[str]:
        if not targets or (isinstance(targets, str) and targets != ALL_LINEAR):
            raise ValueError(f"must be {ALL_LINEAR} or a list of layer names: [q_proj, v_proj]")
        return targets


class PolicyConfig(StrictModel):
    """Where and how the policy is trained."""

    backend: Literal["auto", "local", "deepspeed"] = "auto"
    """Who trains: one process (local) or DeepSpeed's ZeRO-3; auto: deepspeed for several processes,
    or on a GPU if it is installed, otherwise local."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers of the forward pass; what is trained stays fp32, but weights that LoRA freezes are
    stored in it."""
    lora: LoRAConfig | None = None
    """Train adapters on frozen weights; null: train all weights."""
    offload_optimizer: bool = False
    """With deepspeed only: keep and update AdamW's state on the CPU."""
    offload_during_rollouts: bool | Literal["auto"] = "auto"
    """With deepspeed only: AdamW's state waits in host memory during rollouts; auto: on GPUs,
    unless the memory estimate says that it fits beside vLLM."""
    token_budget: Positive = 16384
    """Tokens per micro-batch, padding included."""
    micro_batch_cost: NonNegative = 0
    """What a micro-batch costs beside its tokens, in tokens: rows are cut into micro-batches such
    that padding and this cost are smallest together; 0: fill token_budget."""
    score_all_rows: bool = True
    """Score every response; false: groups without an advantage only in steps of
    tracking.logprob_gain_every, so that in other steps metrics of log-probs and entropy are over
    the other groups."""
    liger_kernel: bool = False
    """On a GPU: norms, rotary embeddings and SwiGLU as one kernel each, from the package
    liger-kernel; use it once `make smoke-gpu` has shown equal gradients on your GPU."""
    gradient_checkpointing: bool = False
    """Keep only each block's input and compute the rest again for the gradient: less memory, more
    time."""
    threads: NonNegative = 0
    """CPU threads; 0: torch's default."""


class EvalSamplingConfig(StrictModel):
    """One way of sampling in an evaluation. temperature 0 is greedy."""

    temperature: Temperature
    """Sampling temperature; 0 is greedy."""
    samples: Positive = 1
    """Responses per problem."""

    @model_validator(mode="after")
    def check_greedy(self) -> EvalSamplingConfig:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples = {self.samples} at temperature 0 would all be the same response; use 1"
            )
        return self


class EvalConfig(StrictModel):
    """Evaluation during training, before the first step included."""

    every: Positive = 10
    """Steps between evaluations."""
    benchmarks: list[str] = []
    """What to evaluate on: the same kinds of source as data.train."""
    config: str | None = None
    """The config of benchmarks that are hub data sets."""
    split: str = "test"
    """The split of benchmarks that are hub data sets."""
    sampling: Annotated[dict[SettingName, EvalSamplingConfig], Field(min_length=1)] = {
        GREEDY: EvalSamplingConfig(temperature=0.0),
        "t0.4": EvalSamplingConfig(temperature=0.4, samples=4),
    }
    """Name -> how to sample; each has metrics eval/<benchmark>/<name>/... and a folder of samples;
    null removes a setting of a base config."""
    max_tokens: Positive | None = None
    """Longest response; null: rollout.max_tokens."""
    limit: Positive | None = None
    """Use only this many problems of each benchmark; null: all."""
    patience: Positive | None = None
    """Stop early after this many evaluations without a better greedy accuracy; null: never."""

    @field_validator("sampling", mode="before")
    @classmethod
    def drop_removed(cls, sampling: Any) -> Any:
        if isinstance(sampling, dict):
            return {name: value for name, value in sampling.items() if value is not None}
        return sampling


class BestOnConfig(StrictModel):
    """Selects the checkpoint with the best greedy accuracy on a benchmark."""

    best_on: str
    """The name of a benchmark in eval.benchmarks."""


class CheckpointConfig(StrictModel):
    """When checkpoints are written, and which of them stay."""

    every: Positive = 50
    """Steps between checkpoints; the last step has one too."""
    keep: Positive = 1
    """Number of newest checkpoints that stay, besides the selected one."""
    select: Literal["last"] | BestOnConfig = "last"
    """Which checkpoint is the run's result: the last one, or the best on a benchmark."""
    merged: bool = True
    """With policy.lora: write the merged model too; false: only its adapters, which need the
    model."""

    @property
    def best_on(self) -> str | None:
        return None if self.select == "last" else self.select.best_on


class DeadlinesConfig(StrictModel):
    """Minutes without progress, per phase, after which a run counts as hung and is terminated.

    Progress is the start of a phase or a completed response.
    """

    load: Minutes = 120.0
    """Loading models, and waiting for the other ranks to start."""
    generate: Minutes = 60.0
    """Generating responses."""
    verify_wait: Minutes = 15.0
    """Waiting for verdicts after the last response."""
    sleep: Minutes = 30.0
    """The engine releasing its memory."""
    score: Minutes = 60.0
    """Computing log-probs and entropy of the responses."""
    update: Minutes = 120.0
    """The updates on a rollout batch."""
    gain: Minutes = 60.0
    """The forward pass of tracking.logprob_gain_every."""
    sync: Minutes = 30.0
    """Sending the new weights to the engine."""
    evaluate: Minutes = 60.0
    """An evaluation during training."""
    save: Minutes = 60.0
    """Writing a checkpoint."""


class WarnConfig(StrictModel):
    """Bounds on metrics. A run that leaves them prints a warning and continues (run/alerts.py)."""

    entropy_below: Rate = 0.02
    """Warn if policy/entropy is below this, in nats per token."""
    entropy_above: Rate = 2.0
    """Warn if policy/entropy is above this and above 1.5 times that of the first step."""
    truncated_above: Rate = 0.25
    """Warn if rollout/truncated, a fraction of the responses, is above this."""
    verifier_failures_above: Rate = 0.01
    """Warn if verdict/timeout + verdict/crashed, a fraction of the responses, is above this."""
    mismatch_above: Rate = 0.05
    """Warn if rollout/logprob_mismatch_mean is above this, in nats per token."""
    no_answer_above: Rate = 0.99
    """Warn if verdict/no_answer, a fraction of the responses, is above this."""
    unmixed_steps: Positive = 3
    """Warn after this many steps in a row without a group that has both rewards."""


class TrackingConfig(StrictModel):
    """What is recorded besides metrics.jsonl."""

    wandb: Annotated[Literal["off", "online", "offline"], OFF] = "off"
    """Also log to Weights & Biases."""
    project: str = "asymrl"
    """The project there."""
    rollouts_every: Positive = 10
    """Steps between files in rollouts/, which hold every response of a step."""
    logprob_gain_every: NonNegative = 10
    """Steps between measurements of diag/logprob_gain_positive, which cost a forward pass; 0:
    never."""


class Config(StrictModel):
    """All settings of a run."""

    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    verifier: VerifierConfig = VerifierConfig()
    advantage: AdvantageConfig
    reweight: ReweightConfig = Field(default_factory=ReweightConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    optim: OptimConfig
    policy: PolicyConfig = PolicyConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    deadlines: DeadlinesConfig = DeadlinesConfig()
    warn: WarnConfig = WarnConfig()
    seed: NonNegative = 0
    """Seed of the order of problems, of sampling and of new weights."""
    steps: Positive
    """Rollout batches to train on; each has prompts / minibatch_prompts x epochs updates."""

    @property
    def total_updates(self) -> int:
        """The optimizer steps of the whole run."""
        per_batch = self.rollout.prompts // self.optim.minibatch_prompts * self.optim.epochs
        return self.steps * per_batch

    @model_validator(mode="before")
    @classmethod
    def name_pocket_policy(cls, config: Any) -> Any:
        """`model.path: pocket` is the pocket policy of the run's seed, `pocket:<seed>`."""
        match config:
            case {"model": {"path": name}} if name in SEEDED:
                model = config["model"] | {"path": f"{name}:{config.get('seed', 0)}"}
                return config | {"model": model}
        return config

    @model_validator(mode="before")
    @classmethod
    def append_digests(cls, config: Any) -> Any:
        return with_digests(config) if isinstance(config, dict) else config

    @model_validator(mode="before")
    @classmethod
    def fill_in_reasoning_gym(cls, config: Any) -> Any:
        """State the defaults of data.reasoning_gym if a source is `reasoning_gym:<task>`."""
        match config:
            case {"data": {"train": train, **data}, **rest}:
                section = rest.get("eval") or {}
                benchmarks = section.get("benchmarks") if isinstance(section, dict) else None
                sources = [train, *(benchmarks if isinstance(benchmarks, list) else ())]
                if any(isinstance(name, str) and name.startswith(PREFIX) for name in sources):
                    block = data.get("reasoning_gym") or {}
                    return config | {"data": config["data"] | {"reasoning_gym": block}}
        return config

    @model_validator(mode="after")
    def check_combinations(self) -> Config:
        if not is_by_path(self.verifier.name):
            check_choice("verifier.name", self.verifier.name, VERIFIERS, FORM)
        for key in METHOD_SECTIONS:
            check_params(key, getattr(self, key), self.advantage.params)
        if is_by_path(self.loss.name):
            try_own_loss(
                by_path.load(self.loss.name), self.loss.params, kl_penalty=self.loss.kl_coef > 0
            )
        shape = self.rollout.prompts, self.rollout.group_size
        for method, example in ((self.advantage, example_groups), (self.reweight, example_tokens)):
            if is_by_path(method.name) and math.prod(shape) <= MAX_TRIAL:
                try_method(method, (example(*shape),))
        check_schedule(self)
        check_entropy_control(self.loss)
        if self.reweight.name == "covariance_kernel_code" and self.loss.aggregation != "seq_mean":
            raise ValueError(
                "reweight.name = 'covariance_kernel_code' requires loss.aggregation seq_mean, for "
                f"which its gradient is computed (got {self.loss.aggregation})"
            )
        check_selection(self)
        check_scoring(self)
        if self.rollout.top_p != 1 or self.rollout.top_k != 0:
            raise ValueError(
                f"rollout.top_p = {self.rollout.top_p}, rollout.top_k = {self.rollout.top_k}: "
                "training must sample from the unmodified policy; use top_p=1 and top_k=0 (off)"
            )
        if self.rollout.prompts % self.optim.minibatch_prompts:
            raise ValueError(
                f"optim.minibatch_prompts = {self.optim.minibatch_prompts} must divide "
                f"rollout.prompts = {self.rollout.prompts}"
            )
        if not self.checkpoint.merged and self.policy.lora is None:
            raise ValueError(
                "checkpoint.merged=false saves adapters without the model; it requires policy.lora"
            )
        if self.optim.warmup_updates and self.optim.warmup_share:
            raise ValueError(
                f"optim.warmup_updates = {self.optim.warmup_updates} and optim.warmup_share = "
                f"{self.optim.warmup_share:g} are two ways to say the same; set one of them to 0"
            )
        if self.optim.warmup_updates >= self.total_updates > 1:
            raise ValueError(
                f"optim.warmup_updates = {self.optim.warmup_updates} must be below the updates of "
                f"the whole run, {self.total_updates}; or use optim.warmup_share"
            )
        if self.optim.lr_floor and self.optim.lr_schedule == "constant":
            raise ValueError(
                f"optim.lr_floor = {self.optim.lr_floor:g} requires optim.lr_schedule linear or "
                "cosine (got constant)"
            )
        check_overlong(self.rollout)
        check_reasoning_gym(self)
        check_user_turn(self.data.user)
        if self.data.chat_template == RAW and (self.data.system or self.data.chat_template_kwargs):
            raise ValueError(
                "data.system and data.chat_template_kwargs require a chat template, but "
                "data.chat_template is none"
            )
        return self


def check_choice(key: str, name: str, valid: Any, other: str | None = None) -> None:
    """other: what is valid beside the names."""
    if name not in valid:
        names = f"{', '.join(sorted(valid))}{f', or {other}' if other else ''}"
        raise ValueError(f"{key} = {name!r} must be one of {names}")


def check_overlong(rollout: RolloutConfig) -> None:
    """The penalty's buffer ends at max_tokens, and the longest responses must be in the loss."""
    if rollout.overlong is None:
        return
    if rollout.overlong.buffer > rollout.max_tokens:
        raise ValueError(
            f"rollout.overlong.buffer = {rollout.overlong.buffer} must be at most "
            f"rollout.max_tokens = {rollout.max_tokens}"
        )
    if rollout.truncation == "mask":
        raise ValueError(
            "rollout.overlong penalizes the longest responses, but rollout.truncation = 'mask' "
            "leaves them out of the loss; use truncation=score or zero, or overlong=null"
        )


def check_reasoning_gym(config: Config) -> None:
    """Its tasks must be known, and its settings need one of its sources."""
    key = "data.train"
    try:
        tasks = tasks_of(config.data.train)
        key = "eval.benchmarks"
        for benchmark in config.eval.benchmarks:
            check_benchmark(benchmark)
            tasks += tasks_of(benchmark)
    except UserError as error:
        raise ValueError(f"{key}: {error}") from None
    if config.data.reasoning_gym is None:
        return
    if not tasks:
        raise ValueError(
            "data.reasoning_gym applies only to data.train or eval.benchmarks of the form "
            "reasoning_gym:<task>; remove it"
        )
    difficulty = config.data.reasoning_gym.difficulty
    if isinstance(difficulty, dict) and (other := sorted(difficulty.keys() - {*tasks})):
        raise ValueError(
            f"data.reasoning_gym.difficulty.{other[0]} is not a task of data.train or "
            f"eval.benchmarks; they have {', '.join(dict.fromkeys(tasks))}"
        )


def check_user_turn(user: str) -> None:
    """`data.user` must contain {problem}, which is replaced; other braces stay as they are."""
    if "{problem}" not in user:
        raise ValueError(f"data.user = {user!r} must contain {{problem}}")


def keyword_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that a config may set: the keyword-only ones, and others with a default."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [
        p
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
        or (p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty)
    ]


def parameter_names(function: Callable[..., Any]) -> list[str]:
    return [p.name for p in keyword_parameters(function)]


def parameter_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The default of every keyword-only parameter that has one."""
    parameters = keyword_parameters(function)
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def check_params(
    key: str, method: MethodConfig, scheduled: Mapping[str, Any] | None = None
) -> None:
    """Check a method's parameters against the signature of its function, and by calling it once:
    its own assertions check the values. scheduled: the estimator's parameters, which are the state
    that a schedule of the user's own starts with."""
    own = is_by_path(method.name)
    if not own:
        check_choice(f"{key}.name", method.name, method.METHODS, FORM)
    parameters = {p.name: p for p in keyword_parameters(method.find(method.name))}
    params = method.model_extra or {}
    if taken := sorted(parameters.keys() & type(method).model_fields.keys()):
        function = by_path.without_digest(method.name)
        raise ValueError(
            f"{function} has a parameter {taken[0]}, but {key}.{taken[0]} is a key of its own: "
            "give the parameter another name"
        )
    for name in params:
        if name not in parameters:
            known = any(name in parameter_names(f) for f in LOSSES.values())
            if key == "loss" and not own and not known:
                raise ValueError(f"unknown key loss.{name}")
            valid = ", ".join(parameters) or "no parameters"
            function = by_path.without_digest(method.name)
            raise ValueError(f"{key}.{name} is not valid: {function} takes {valid}")
    for name, parameter in parameters.items():
        if name not in params:
            function = by_path.without_digest(method.name)
            raise ValueError(f"{key}.{name} is missing: {function} requires it")
        choices = get_args(parameter.annotation)
        check_param(f"{key}.{name}", params[name], choices, any_number=own)
    example = method.EXAMPLE
    if own and key == "schedule":
        state = {name: x for name, x in (scheduled or {}).items() if isinstance(x, float)}
        example = (state, *example[1:])
    try_method(method, example)


def try_method(method: MethodConfig, inputs: tuple[Any, ...]) -> None:
    """Call a method once. ValueError for a wrong parameter, by the function's own assertions, and
    for what a function of the user's own must not do."""
    try:
        method.function(*inputs, **method.params)
    except AssertionError as error:
        name, value = "name", method.name
        match = re.match(r"(\w+) must ", str(error))
        if match and match[1] in method.params:
            name, value = match[1], method.params[match[1]]
        raise ValueError(f"{method.SECTION}.{name} = {value!r}: {error}") from None
    except UserError as error:
        raise ValueError(str(error)) from None


def check_param(key: str, param: Any, choices: Sequence[str], *, any_number: bool) -> None:
    """A parameter must be one of the choices that its annotation lists, or else a number."""
    if choices:
        check_choice(key, param, choices)
    elif any_number:
        if isinstance(param, bool) or not is_finite(param):
            raise ValueError(
                f"{key} = {short_repr(param)} must be a number, or one of the texts that the "
                'function lists in its signature, as in mode: Literal["a", "b"]'
            )
    elif isinstance(param, bool) or not isinstance(param, int | float) or not 0 <= param <= 40:
        raise ValueError(f"{key} = {param!r} must be a number from 0 to 40")


def check_selection(config: Config) -> None:
    """Early stopping needs a benchmark; `best_on` needs a score for every saved checkpoint. Both
    read the greedy evaluation."""
    greedy = config.eval.sampling.get(GREEDY)
    if greedy and greedy.temperature > 0:
        raise ValueError(
            f"eval.sampling.greedy.temperature = {greedy.temperature:g} must be 0; for another "
            f"temperature use another name, such as t{greedy.temperature:g}"
        )
    if not greedy and (config.eval.patience or config.checkpoint.best_on):
        raise ValueError(
            "eval.patience and checkpoint.select.best_on read the setting greedy, which "
            "eval.sampling does not have: add greedy: {temperature: 0.0}"
        )
    if config.eval.patience and not config.eval.benchmarks:
        raise ValueError(
            f"eval.patience = {config.eval.patience} requires a benchmark, but eval.benchmarks is "
            "empty"
        )
    best_on = config.checkpoint.best_on
    if best_on is None:
        return
    names = [short_name(benchmark) for benchmark in config.eval.benchmarks]
    check_choice("checkpoint.select.best_on", best_on, names)
    if config.checkpoint.every % config.eval.every:
        raise ValueError(
            f"checkpoint.every = {config.checkpoint.every} must be a multiple of eval.every = "
            f"{config.eval.every}, so that best_on has a score for every checkpoint"
        )


def check_entropy_control(loss: LossConfig) -> None:
    if loss.entropy_control and loss.entropy_bonus > loss.entropy_control.max:
        raise ValueError(
            f"loss.entropy_bonus = {loss.entropy_bonus:g} is where loss.entropy_control starts, so "
            f"it must be at most loss.entropy_control.max = {loss.entropy_control.max:g}"
        )


def check_scoring(config: Config) -> None:
    """policy.score_all_rows=false requires a method that reads no row without an advantage."""
    if config.policy.score_all_rows:
        return
    schedule = config.schedule.name
    reading = {
        "reweight.name = none, because a reweighting compares all tokens": config.reweight.name
        != "none",
        "schedule.name = constant, linear, cosine or peak_tracking, because others follow the "
        "entropy of all tokens": schedule not in ("constant", "linear", "cosine", "peak_tracking"),
        "a loss that reads no other row, and not clip_cov or kl_cov": (
            config.loss.name in ("clip_cov", "kl_cov") or is_by_path(config.loss.name)
        ),
        "loss.entropy_bonus = 0 and no loss.entropy_control, with which every row has a gradient": (
            config.loss.entropy_bonus > 0 or config.loss.entropy_control is not None
        ),
        "loss.kl_coef = 0, with which every row has a gradient": config.loss.kl_coef > 0,
    }
    for required, is_read in reading.items():
        if is_read:
            raise ValueError(f"policy.score_all_rows=false requires {required}")


def check_schedule(config: Config) -> None:
    """A schedule other than `constant` requires an estimator with the parameters it changes."""
    if config.schedule.name == "fade":
        if config.advantage.name != "fade":
            raise ValueError(
                "schedule.name = 'fade' changes alpha and delta of the estimator fade, but "
                f"advantage.name = {config.advantage.name!r}"
            )
        return
    changes_betas = config.schedule.name != "constant" and not is_by_path(config.schedule.name)
    if changes_betas and not {"beta_pos", "beta_neg"} <= config.advantage.params.keys():
        raise ValueError(
            f"schedule.name = {config.schedule.name!r} changes beta_pos and beta_neg, but "
            f"advantage.name = {config.advantage.name!r} does not have them; use asym, "
            "ent_increase or ent_decrease"
        )
