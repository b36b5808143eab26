"""Sets up a training run: data, engine, policy, run folder; then starts the loop.

Nothing in the run folder changes before everything is loaded and checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from asymrl import verifiers
from asymrl.by_path import is_by_path
from asymrl.config.schema import Config
from asymrl.data.problems import ProblemLoader, problems_digest, try_verifier
from asymrl.data.readers import Fields, short_names
from asymrl.data.reasoning_gym import GymSettings
from asymrl.data.sources import Subset, training_subset
from asymrl.engines import build, memory, pretrained
from asymrl.engines.distributed import World, from_environment, join
from asymrl.engines.gpu_memory import MemoryMeter
from asymrl.engines.policy import Policy
from asymrl.engines.rollout import RolloutEngine
from asymrl.errors import ReportedByRankZero, UserError
from asymrl.run import checkpoint
from asymrl.run.early_stop import StopSignals, build_stop
from asymrl.run.exit_codes import DONE, WRONG
from asymrl.run.folder import check_shared, describe_saved, find_checkpoint, open_for_training
from asymrl.run.result import describe_result
from asymrl.run.tracking import build_tracker
from asymrl.run.watchdog import Watchdog
from asymrl.training import loop
from asymrl.training.rollout import generate_and_verify
from asymrl.types import Problem, Sampling, Stopped, frozen
from asymrl.verifiers import Verifier


@frozen
class RunData:
    """The training problems, and the problems of each benchmark by its short name."""

    problems: Sequence[Problem]
    benchmarks: Mapping[str, Sequence[Problem]]

    @property
    def digest(self) -> str:
        """Identifies the problems and their order: a resumed run must have the same."""
        return problems_digest([*self.problems, *chain(*self.benchmarks.values())])


def run_training(
    config: Config,
    run_dir: Path,
    evaluate: Callable[..., Mapping[str, float]],
    *,
    resume: str = "auto",
    until: float = math.inf,
    engine: RolloutEngine | None = None,
    policy: Policy | None = None,
) -> Stopped | None:
    """Train in `run_dir`, resuming if it holds a run. Returns why the run stopped early, or None.

    evaluate: evaluation.evaluate.evaluate_step. resume: `auto`, `never` or a checkpoint folder.
    until: the time.monotonic() value at which to stop. engine, policy: used instead of those in the
    config; they must have the config's model. UserError, after the last finished step is saved, if
    the config makes the run end before its last step.
    """
    world = from_environment(config.rollout.tensor_parallel)
    chosen, reasons = build.choose(config, build.detect_machine(world))
    with ExitStack() as stack:
        if world.size > 1 or chosen.policy.backend == "deepspeed":
            join(world, config.deadlines.load)
        signals = stack.enter_context(StopSignals())
        watchdog = Watchdog(world, config.deadlines.model_dump(), run_dir)
        stack.enter_context(watchdog)
        if world.nodes > 1:
            check_shared(run_dir, world, "--output-dir")
        checkpoint_dir = world.from_rank_zero(partial(find_checkpoint, run_dir, config, resume))
        start, state_parts, is_branch = checkpoint.starting_point(run_dir, checkpoint_dir)
        if checkpoint_dir:
            same = partial(checkpoint.check_same_lora, checkpoint_dir, config.policy.lora)
            world.from_rank_zero(same)
        if start.step >= config.steps:
            print(describe_finished(run_dir, start.step, config.steps), flush=True)
            return finish(config, run_dir, world)
        print(reasons, flush=True)
        pretrained.set_threads(config.policy.threads)
        verifier = stack.enter_context(verifiers.make(**config.verifier.model_dump()))
        if checkpoint_dir:
            checkpoint.check_digests(checkpoint_dir, world)
        with world.rank_zero_first():
            tokenizer = pretrained.load_tokenizer(config.model, config.data.chat_template)
            if config.policy.lora:
                pretrained.check_lora(config.model, config.policy.lora)
            data = load_data(config, tokenizer, verifier)
            if checkpoint_dir and not is_branch:
                checkpoint.check_same_data(checkpoint_dir, data.digest)
                leftovers = checkpoint.load_leftovers(checkpoint_dir, data.problems)
                start = replace(start, leftovers=leftovers)

        sampling = training_sampling(config, tokenizer)
        eval_sampling = replace(sampling, max_tokens=config.eval.max_tokens or sampling.max_tokens)
        definitions = checkpoint.build_definitions(config, eval_sampling, tokenizer)
        max_model_len = max_tokens(config, data)
        shared_model = None
        if engine is None:
            engine = training_engine(chosen, tokenizer, world, max_model_len)
            shared_model = build.model_to_share(engine, chosen)
        if policy is None:
            policy = build.build_policy(chosen, world, shared_model)
        if state_parts:
            policy.load_state(state_parts)
            state_parts.clear()  # closes the files, which may be deleted during the run

        save = partial(
            checkpoint.save_checkpoint,
            *(config, run_dir, policy, tokenizer, definitions, data.digest, world),
        )
        first_save = partial(save, start) if is_branch else None
        opened = open_for_training(
            config, run_dir, checkpoint_dir, start, world, reasons, first_save, resume
        )
        stack.enter_context(opened)
        stop = build_stop(config, run_dir, world, until, signals)
        signals.listen()
        tracker = build_tracker(config, run_dir, start.step, world, watchdog)
        stack.enter_context(closing(tracker))
        shared = {"engine": engine, "verifier": verifier, "world": world}
        stopped = loop.train(
            config,
            data.problems,
            engine,
            policy,
            partial(
                generate_and_verify, sampling=sampling, stop_requested=stop.requested, **shared
            ),
            loop.Callbacks(
                evaluate=partial(
                    evaluate,
                    run_dir=run_dir,
                    tasks=eval_tasks(config, data.benchmarks, eval_sampling),
                    tracker=tracker,
                    **shared,
                ),
                save=save,
                stop=stop,
                tracker=tracker,
                memory=MemoryMeter(world, memory.estimate_by_phase(chosen, world.size)),
            ),
            start,
        )
    if not stopped or stopped.code == DONE:
        finish(config, run_dir, world)
    if not stopped:
        return None
    why = f"{stopped.why}; {describe_saved(run_dir, checkpoint_dir)}"
    if stopped.code == WRONG:
        raise UserError(why) if world.first else ReportedByRankZero(why)
    return replace(stopped, why=why)


def describe_finished(run_dir: Path, step: int, steps: int) -> str:
    if step == steps:
        return f"{run_dir} is at step {step}, steps = {steps}: nothing to do"
    return (
        f"note: {run_dir} is at step {step}, longer than steps = {steps}: nothing to do, and the "
        f"result below is that of step {step}; for a run of {steps} steps use another --output-dir"
    )


def finish(config: Config, run_dir: Path, world: World) -> None:
    """Print the result of a run that ended, on rank 0."""
    if world.first:
        print(describe_result(run_dir, config.eval.benchmarks), flush=True)


def load_data(config: Config, tokenizer: Any, verifier: Verifier) -> RunData:
    """Read all problems, and print which were dropped or will be verified differently."""
    loader = ProblemLoader(
        tokenizer=tokenizer,
        prompt=config.data.prompt,
        max_prompt_tokens=config.data.max_prompt_tokens,
        fields=Fields(problem=config.data.problem_field, answer=config.data.answer_field),
        verifier=verifier,
        reject_unparseable=config.data.unparseable_gold == "refuse",
        own_verifier=is_by_path(config.verifier.name),
        gym=GymSettings(**config.data.gym),
    )
    print(f"reading {config.data.train} and checking its golds", flush=True)
    training = loader.load(
        config.data.train,
        limit=config.data.limit,
        subset=training_subset(config.data.train, config.data.config, config.data.split),
    )
    part = Subset(config=config.eval.config, split=config.eval.split)
    names = short_names(config.eval.benchmarks)
    benchmarks = {
        name: loader.load(source, limit=config.eval.limit, subset=part, heldout=True)
        for name, source in zip(names, config.eval.benchmarks, strict=True)
    }
    if is_by_path(config.verifier.name):
        try_verifier(verifier, training.problems[0])
    for loaded in (training, *benchmarks.values()):
        for note in loaded.notes:
            print(f"note: {note}", flush=True)
    return RunData(
        problems=training.problems,
        benchmarks={name: loaded.problems for name, loaded in benchmarks.items()},
    )


def training_sampling(config: Config, tokenizer: Any) -> Sampling:
    return Sampling(
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        top_k=config.rollout.top_k,
        max_tokens=config.rollout.max_tokens,
        stop_ids=pretrained.stop_ids(config.model, tokenizer, config.rollout.stop),
    )


def eval_tasks(
    config: Config, benchmarks: Mapping[str, Sequence[Problem]], sampling: Sampling
) -> dict[str, dict[str, Any]]:
    """The evaluations of the run: name of the setting -> the fields of its EvalTask."""
    return {
        name: {
            "benchmarks": benchmarks,
            "samples": dict.fromkeys(benchmarks, setting.samples),
            "sampling": replace(sampling, temperature=setting.temperature),
            "seed": config.seed,
        }
        for name, setting in config.eval.sampling.items()
    }


def max_tokens(config: Config, data: RunData) -> int:
    """Tokens of the longest prompt plus the longest allowed response. UserError if the model has
    fewer positions."""
    problems = chain(data.problems, *data.benchmarks.values())
    longest_prompt = max(len(problem.prompt_ids) for problem in problems)
    tokens = longest_prompt + max(config.rollout.max_tokens, config.eval.max_tokens or 0)
    pretrained.check_positions(config.model, tokens)
    return tokens


def training_engine(
    config: Config, tokenizer: Any, world: World, max_model_len: int
) -> RolloutEngine:
    rollout = config.rollout
    return build.build_engine(
        rollout.engine,
        config.model,
        tokenizer,
        world=world,
        dtype=getattr(torch, config.policy.dtype),
        max_rows=rollout.max_rows,
        vllm=build.VLLMSettings(
            max_model_len=max_model_len,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            enforce_eager=rollout.enforce_eager,
            per_sample_seeds=rollout.per_sample_seeds,
        ),
    )
