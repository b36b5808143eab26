"""Train a policy with verifiable rewards: AsymGRPO and its relatives. Wiring only.

The objective, in words. Draw a batch of problems, sample G responses to each from the current
policy, and let a verifier say of each response: right (reward 1) or wrong (0). With p the share of
right ones in a problem's group, a right response gets the advantage ((1-p)/p)^beta_pos and a wrong
one -(p/(1-p))^beta_neg. All tokens of a response share it. Then maximise the PPO-clip surrogate,
averaged over the tokens of each mini-batch, and begin again with the new policy. (0, 0) is
REINFORCE, (0.5, 0.5) is GRPO, (0.9, 0.4) the paper's best (arXiv 2604.04894).

Left out on purpose: a critic, a KL penalty, a reward model, dual clip, dynamic sampling, several
turns. The story is asymrl/loop.py; the mathematics is asymrl/algo/.

    accelerate launch train.py --config qwen3_4b_asym.yaml [key.sub=value ...]
        [--dry-run] [--resume auto|never|DIR] [--output-dir DIR]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asymrl import config as configs
from asymrl import memory
from asymrl.config import Config
from asymrl.types import Problem, Sampling, UserError

if TYPE_CHECKING:  # heavy imports wait until the config is known to be right
    from asymrl.engines.policy import Policy
    from asymrl.engines.rollout import RolloutEngine
    from asymrl.tracking import Tracker
    from asymrl.verifiers import Verifier


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", required=True, help="a path, or a bare name in configs/")
    parser.add_argument("--dry-run", action="store_true", help="config, batches, memory; no model")
    parser.add_argument(
        "--resume",
        default="auto",
        help="auto (default): go on with the run in the output folder; never: refuse such a "
        "folder; DIR: begin a new run from that checkpoint",
    )
    parser.add_argument("--output-dir", type=Path, help="default: runs/<name of the config>")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        config = configs.load(arguments.config, arguments.overrides)
        if arguments.dry_run:
            print(configs.dump(config), memory.describe(config), sep="\n")
        else:
            name = Path(arguments.config).name.removesuffix(".yaml")
            run(config, arguments.output_dir or Path("runs") / name, arguments.resume)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; --resume auto goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def run(config: Config, folder: Path, resume: str) -> None:
    """Load everything, only then touch the run folder, then train."""
    from asymrl import checkpoint, environment, evaluate, loop, models, verifiers

    refuse_several_processes()
    found = checkpoint.find(folder, config, resume)
    start, state = checkpoint.load(found) if found else (checkpoint.Position(), None)
    if start.step >= config.steps:
        print(f"{folder} is at step {start.step}, steps = {config.steps}: nothing to do")
        return
    models.set_threads(config.policy.threads)
    tokenizer = models.load_tokenizer(config.model)
    with ExitStack() as stack:
        judged_by = config.verifier
        verifier = stack.enter_context(
            verifiers.make(judged_by.name, judged_by.workers, judged_by.timeout)
        )
        problems, benchmarks = load_problems(config, tokenizer, verifier)
        engine, sampling = make_engine(config, tokenizer)
        policy = make_policy(config)
        if state is not None:
            policy.load_state(state)
        save = partial(
            checkpoint.save,
            folder,
            policy=policy,
            tokenizer=tokenizer,
            definitions=definitions(config, sampling),
            keep=config.checkpoint.keep,
        )
        stack.enter_context(checkpoint.opened(folder, found, start))
        if found and found.parent.parent != folder.resolve():
            save(start)  # a run that begins from another's checkpoint has its own before all else
        checkpoint.write_config(folder, config)
        environment.write_environment(folder)
        tracker = stack.enter_context(closing(make_tracker(config, folder, start.step)))
        loop.train(
            config,
            problems=problems,
            sampling=sampling,
            engine=engine,
            policy=policy,
            verifier=verifier,
            evaluate=partial(
                evaluate.at_step,
                engine=engine,
                verifier=verifier,
                benchmarks=benchmarks,
                samples=config.eval.samples,
                sampling=eval_sampling(config, sampling),
                seed=config.seed,
                run=folder,
                tracker=tracker,
            ),
            save=save,
            tracker=tracker,
            start=start,
        )


def refuse_several_processes() -> None:
    if (launched := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UserError(
            f"{launched} processes were launched; policy.backend local trains in one: launch with "
            "--num_processes 1"
        )


def definitions(config: Config, sampling: Sampling) -> dict[str, Any]:
    """asymrl.json of a checkpoint: how this policy is to be asked, and by whom judged."""
    return {
        "prompt": prompt_definition(config),
        "sampling": asdict(eval_sampling(config, sampling)),
        "verifier": config.verifier.name,
    }


def load_problems(
    config: Config, tokenizer: Any, verifier: Verifier
) -> tuple[tuple[Problem, ...], dict[str, tuple[Problem, ...]]]:
    """The training problems, and the problems of each benchmark by its short name."""
    from asymrl import data

    load = partial(
        data.load_problems,
        tokenizer=tokenizer,
        prompt=prompt_definition(config),
        max_prompt_tokens=config.data.max_prompt_tokens,
        problem_field=config.data.problem_field,
        answer_field=config.data.answer_field,
        verifier=verifier,
        refuse_unparseable=config.data.unparseable_gold == "refuse",
    )
    print(f"reading {config.data.train} and checking its golds", flush=True)
    training = load(config.data.train, limit=config.data.limit)
    names = data.short_names(config.eval.benchmarks)
    benchmarks = {
        name: load(source, limit=config.eval.limit)
        for name, source in zip(names, config.eval.benchmarks, strict=True)
    }
    for loaded in (training, *benchmarks.values()):
        for note in loaded.notes:
            print(f"note: {note}", file=sys.stderr)
    return training.problems, {name: loaded.problems for name, loaded in benchmarks.items()}


def make_engine(config: Config, tokenizer: Any) -> tuple[RolloutEngine, Sampling]:
    """The rollout engine, and how it samples in training."""
    import torch

    from asymrl import models
    from asymrl.engines.hf import HFEngine

    dtype = torch.bfloat16 if config.policy.dtype == "bfloat16" else torch.float32
    model = models.load_model(config.model, dtype)
    sampling = Sampling(
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        top_k=config.rollout.top_k,
        max_tokens=config.rollout.max_tokens,
        stop_ids=models.stop_ids(model, tokenizer, config.rollout.stop),
    )
    match config.rollout.engine:
        case "hf" | "auto":
            return HFEngine(model, tokenizer.decode, config.rollout.max_rows), sampling


def make_policy(config: Config) -> Policy:
    import torch

    from asymrl import models
    from asymrl.engines.local import LocalPolicy

    match config.policy.backend:
        case "local" | "auto":
            return LocalPolicy(
                models.load_model(config.model, torch.float32),
                temperature=config.rollout.temperature,
                lr=config.optim.lr,
                betas=config.optim.betas,
                weight_decay=config.optim.weight_decay,
                max_grad_norm=config.optim.max_grad_norm,
                warmup_updates=config.optim.warmup_updates,
                token_budget=config.policy.token_budget,
                bf16=config.policy.dtype == "bfloat16",
                gradient_checkpointing=config.policy.gradient_checkpointing,
            )


def make_tracker(config: Config, folder: Path, first_step: int) -> Tracker:
    from asymrl import tracking

    trackers: list[Tracker] = [tracking.JsonlTracker(folder)]
    if config.tracking.wandb != "off":
        wandb = tracking.WandbTracker(
            folder, config.tracking.project, config.tracking.wandb, config.model_dump()
        )
        trackers.append(wandb)
    console = tracking.ConsoleTracker(folder.name, first_step, config.steps)
    return tracking.Trackers(*trackers, console)


def prompt_definition(config: Config) -> dict[str, Any]:
    return {
        "system": config.data.system,
        "user": config.data.user,
        "template_kwargs": config.data.chat_template_kwargs,
    }


def eval_sampling(config: Config, sampling: Sampling) -> Sampling:
    return replace(
        sampling,
        temperature=config.eval.temperature,
        max_tokens=config.eval.max_tokens or config.rollout.max_tokens,
    )


if __name__ == "__main__":
    sys.exit(main())
