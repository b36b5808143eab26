"""Train a policy with verifiable rewards: AsymGRPO and its relatives. Wiring only.

The objective, in words. Draw a batch of problems, sample G responses to each from the current
policy, and let a verifier say of each response: right (reward 1) or wrong (0). With p the share of
right ones in a problem's group, a right response gets the advantage ((1-p)/p)^beta_pos and a wrong
one -(p/(1-p))^beta_neg. All tokens of a response share it. Then maximise the PPO-clip surrogate,
averaged over the tokens of each mini-batch, and begin again with the new policy. (0, 0) is
REINFORCE, (0.5, 0.5) is GRPO, (0.9, 0.4) the paper's best (arXiv 2604.04894).

Left out on purpose: a critic, a KL penalty, a reward model, dual clip, dynamic sampling, several
turns. The story is asymrl/training/loop.py; the mathematics is asymrl/algo/.

    accelerate launch train.py --config qwen3_4b_asym.yaml [key.sub=value ...]
        [--row ROW] [--dry-run] [--resume auto|never|DIR] [--output-dir DIR] [--max-minutes M]

Exit codes: 0 done; 2 a mistake in what was given, said in one sentence; 75 stopped early and saved
(SIGTERM, Ctrl-C, --max-minutes), the same command goes on; 1 anything else (docs/reliability.md).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asymrl.config.load import dump_config, load_config
from asymrl.config.schema import Config
from asymrl.data.readers import short_names
from asymrl.engines import memory
from asymrl.errors import UserError
from asymrl.run.exit_codes import exit_code, is_first
from asymrl.training.rollout import generate_and_verify
from asymrl.types import Problem, Sampling

if TYPE_CHECKING:  # heavy imports wait until the config is known to be right
    from asymrl.engines.distributed import World
    from asymrl.engines.policy import Policy
    from asymrl.engines.rollout import RolloutEngine
    from asymrl.run.tracking import Tracker
    from asymrl.run.watchdog import Watchdog
    from asymrl.types import Position, Stopped
    from asymrl.verifiers import Verifier


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", required=True, help="a path, or a bare name in configs/")
    parser.add_argument("--row", help="a row over that config: a path, or a name in configs/rows/")
    parser.add_argument("--dry-run", action="store_true", help="config, batches, memory; no model")
    parser.add_argument(
        "--resume",
        default="auto",
        help="auto (default): go on with the run in the output folder; never: refuse such a "
        "folder; DIR: begin a new run from that checkpoint",
    )
    parser.add_argument("--output-dir", type=Path, help="default: runs/<config>[_<row>]")
    parser.add_argument("--max-minutes", type=float, help="then stop, save, and exit with code 75")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    return exit_code(partial(attempt, arguments))


def attempt(arguments: argparse.Namespace) -> int | None:
    """The exit code of a run that came to an end, None for 0."""
    config = load_config(arguments.config, arguments.overrides, arguments.row)
    if arguments.dry_run:
        print(dump_config(config), memory.describe(config, *memory.cards()), sep="\n")
        return None
    parts = [arguments.config, *([arguments.row] if arguments.row else [])]
    name = "_".join(Path(part).name.removesuffix(".yaml") for part in parts)
    folder = arguments.output_dir or Path("runs") / name
    stopped = run(config, folder, arguments.resume, until(arguments.max_minutes))
    if not stopped:
        return None
    print(f"stopped: {stopped.why}", flush=True)
    return stopped.code if is_first() else None  # a launcher ends all for one that fails


def until(minutes: float | None) -> float:
    """When --max-minutes are over, on the clock of time.monotonic()."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise UserError(f"--max-minutes {minutes:g} must be a positive number of minutes")
    return math.inf if minutes is None else time.monotonic() + 60 * minutes


def run(config: Config, folder: Path, resume: str, until: float) -> Stopped | None:
    """Load everything, only then touch the run folder, then train."""
    from asymrl import verifiers
    from asymrl.engines import build, pretrained
    from asymrl.engines import distributed as worlds
    from asymrl.evaluation import evaluate
    from asymrl.evaluation.results_folder import digest
    from asymrl.run import checkpoint, early_stop
    from asymrl.run import folder as run_folder
    from asymrl.run.watchdog import Watchdog
    from asymrl.training import loop

    world = worlds.from_environment(config.rollout.tensor_parallel)
    chosen, why = build.choose(config, build.machine(world))
    found = run_folder.find_checkpoint(folder, config, resume)
    start, state, another = checkpoint.starting_point(folder, found)
    if start.step >= config.steps:
        print(f"{folder} is at step {start.step}, steps = {config.steps}: nothing to do")
        return None
    pretrained.set_threads(config.policy.threads)
    with ExitStack() as stack:
        print(why, flush=True)
        if world.size > 1 or chosen.policy.backend == "deepspeed":
            worlds.join(world, config.deadlines.load)
        signals = stack.enter_context(early_stop.StopSignals())  # before the watchdog
        watch = stack.enter_context(Watchdog(world, config.deadlines.model_dump(), folder))
        verifier = stack.enter_context(verifiers.make(**config.verifier.model_dump()))
        with world.in_turn():
            if world.first and found:
                checkpoint.check_digests(found)
            tokenizer = pretrained.load_tokenizer(config.model)
            problems, benchmarks = load_problems(config, tokenizer, verifier)
            data = digest(list(chain(problems, *benchmarks.values())))
            if found and not another:
                checkpoint.check_same_data(found, data)
        room = room_for(config, [problems, *benchmarks.values()])
        engine, sampling = make_engine(chosen, tokenizer, world, room)
        policy = make_policy(chosen, world)
        if state is not None:
            policy.load_state(state)
        shared = {"engine": engine, "verifier": verifier, "world": world}
        saved = kept(config, folder, sampling, tokenizer)
        save = partial(checkpoint.save_checkpoint, folder, policy=policy, data=data, **saved)
        own = partial(branch, folder, resume, world, partial(save, start)) if another else None
        stack.enter_context(opened(config, folder, found, start, world, why, own))
        stop = early_stop.build_stop(config, folder, world, until, signals)
        signals.listen()
        tracker = make_tracker(config, folder, start.step, world, watch)
        stack.enter_context(closing(tracker))
        at_step = eval_settings(config, sampling) | {"benchmarks": benchmarks, "run": folder}
        stopped = loop.train(
            config,
            problems=problems,
            engine=engine,
            policy=policy,
            roll_out=partial(
                generate_and_verify, sampling=sampling, asked=stop.requested, **shared
            ),
            evaluate=partial(evaluate.at_step, tracker=tracker, **at_step, **shared),
            save=save,
            stop=stop,
            tracker=tracker,
            start=start,
        )
    return stopped and replace(
        stopped, why=f"{stopped.why}; {run_folder.describe_saved(folder, found)}"
    )


@contextmanager
def opened(
    config: Config,
    folder: Path,
    found: Path | None,
    start: Position,
    world: World,
    why: str,
    branch: Callable[[], object] | None,
) -> Iterator[None]:
    """The run folder, this run's alone; branch: what is done in it before all else."""
    from asymrl.run import checkpoint, environment
    from asymrl.run import folder as run_folder

    with ExitStack() as stack:
        with world.in_turn():
            if world.first:
                stack.enter_context(run_folder.open_run_folder(folder, found, start))
                checkpoint.link_best(folder, config.checkpoint.best_on)
        if branch:
            branch()
        with world.in_turn():
            if world.first:
                run_folder.write_config(folder, config)
                environment.write_environment(folder, world.size, why)
        yield


def branch(folder: Path, resume: str, world: World, save: Callable[[], object]) -> None:
    """A run that begins from another's checkpoint has its own at once, and knows whence it came."""
    from asymrl.run.folder import write_origin

    save()
    if world.first:
        write_origin(folder, resume)


def kept(config: Config, folder: Path, sampling: Sampling, tokenizer: Any) -> dict[str, Any]:
    """What a checkpoint holds beside a policy and its tokenizer, and which ones stay."""
    from asymrl.run.card import card

    return {
        "tokenizer": tokenizer,
        "definitions": definitions(config, sampling, tokenizer),
        "card": partial(card, config, folder),
        "keep": config.checkpoint.keep,
        "best_on": config.checkpoint.best_on,
    }


def definitions(config: Config, sampling: Sampling, tokenizer: Any) -> dict[str, Any]:
    """asymrl.json of a checkpoint: how this policy is to be asked, and by whom judged."""
    from asymrl.engines.pretrained import template_digest
    from asymrl.run.card import rule

    return {
        "prompt": config.data.prompt,
        "sampling": asdict(eval_settings(config, sampling)["sampling"]),
        "verifier": config.verifier.model_dump(),
        "chat_template": template_digest(tokenizer),
        "which": rule(config),
    }


def load_problems(
    config: Config, tokenizer: Any, verifier: Verifier
) -> tuple[tuple[Problem, ...], dict[str, tuple[Problem, ...]]]:
    """The training problems, and the problems of each benchmark by its short name."""
    from asymrl.data import problems as data

    load = partial(
        data.load_problems,
        tokenizer=tokenizer,
        prompt=config.data.prompt,
        max_prompt_tokens=config.data.max_prompt_tokens,
        problem_field=config.data.problem_field,
        answer_field=config.data.answer_field,
        verifier=verifier,
        refuse_unparseable=config.data.unparseable_gold == "refuse",
    )
    print(f"reading {config.data.train} and checking its golds", flush=True)
    training = load(config.data.train, limit=config.data.limit)
    names = short_names(config.eval.benchmarks)
    benchmarks = {
        name: load(source, limit=config.eval.limit)
        for name, source in zip(names, config.eval.benchmarks, strict=True)
    }
    for loaded in (training, *benchmarks.values()):
        for note in loaded.notes:
            print(f"note: {note}", flush=True)
    return training.problems, {name: loaded.problems for name, loaded in benchmarks.items()}


def room_for(config: Config, problems: Sequence[Sequence[Problem]]) -> int:
    """Tokens of the longest prompt there is with the longest response allowed."""
    from asymrl.engines import pretrained

    longest = max(len(problem.prompt_ids) for part in problems for problem in part)
    room = longest + max(config.rollout.max_tokens, config.eval.max_tokens or 0)
    pretrained.check_positions(config.model, room)
    return room


def make_engine(
    config: Config, tokenizer: Any, world: World, room: int
) -> tuple[RolloutEngine, Sampling]:
    """The rollout engine, and how it samples in training."""
    import torch

    from asymrl.engines import pretrained

    dtype = torch.bfloat16 if config.policy.dtype == "bfloat16" else torch.float32
    rollout = config.rollout
    sampling = Sampling(
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        top_k=config.rollout.top_k,
        max_tokens=config.rollout.max_tokens,
        stop_ids=pretrained.stop_ids(config.model, tokenizer, config.rollout.stop),
    )
    match rollout.engine:
        case "vllm":
            from asymrl.engines.vllm import VLLMEngine

            return VLLMEngine(
                pretrained.locate(config.model.path),
                tokenizer.decode,
                world=world,
                dtype=dtype,
                max_model_len=room,
                max_rows=rollout.max_rows,
                per_sample_seeds=rollout.per_sample_seeds,
                gpu_memory_utilization=rollout.gpu_memory_utilization,
                enforce_eager=rollout.enforce_eager,
                revision=config.model.revision,
                trust_remote_code=config.model.trust_remote_code,
            ), sampling
        case _:
            from asymrl.engines.hf import HFEngine

            model = pretrained.load_model(config.model, dtype)
            return HFEngine(model, tokenizer.decode, rollout.max_rows), sampling


def make_policy(config: Config, world: World) -> Policy:
    import torch

    from asymrl.engines import pretrained

    load = partial(pretrained.load_model, config.model)
    settings = {
        "temperature": config.rollout.temperature,
        "lr": config.optim.lr,
        "betas": config.optim.betas,
        "weight_decay": config.optim.weight_decay,
        "max_grad_norm": config.optim.max_grad_norm,
        "warmup_updates": config.optim.warmup_updates,
        "token_budget": config.policy.token_budget,
        "bf16": config.policy.dtype == "bfloat16",
        "gradient_checkpointing": config.policy.gradient_checkpointing,
    }
    match config.policy.backend:
        case "deepspeed":
            from asymrl.engines.deepspeed import DeepSpeedPolicy

            offload = config.policy.offload_optimizer
            return DeepSpeedPolicy(load, world=world, offload_optimizer=offload, **settings)
        case _:
            from asymrl.engines.local import LocalPolicy

            return LocalPolicy(load(torch.float32), **settings)


def make_tracker(
    config: Config, folder: Path, first_step: int, world: World, watch: Watchdog
) -> Tracker:
    from asymrl.run import tracking

    if not world.first:
        return watch
    trackers: list[Tracker] = [watch, tracking.JsonlTracker(folder)]
    if config.tracking.wandb != "off":
        wandb = tracking.WandbTracker(
            folder, config.tracking.project, config.tracking.wandb, config.model_dump()
        )
        trackers.append(wandb)
    console = tracking.ConsoleTracker(folder.name, first_step, config.steps)
    warnings = tracking.Alerts(config.warn, console.say)
    return tracking.Trackers(*trackers, console, warnings)


def eval_settings(config: Config, sampling: Sampling) -> dict[str, Any]:
    max_tokens = config.eval.max_tokens or config.rollout.max_tokens
    return {
        "samples": lambda name: config.eval.samples,
        "sampling": replace(sampling, temperature=config.eval.temperature, max_tokens=max_tokens),
        "seed": config.seed,
    }


if __name__ == "__main__":
    sys.exit(main())
