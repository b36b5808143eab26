"""The one-step probe of Proposition 1: what one SGD step of each estimator does to entropy.

    python -m studies.probe CKPT [--config NAME] [--data SOURCE_OR_FILE] [--batches 8]
        [--prompts 32] [--group-size 8] [--step-size 1e-4] [--groups mixed|all]
        [--estimators 0,0 .5,0 ent_increase ...] [--out DIR]

CKPT is a checkpoint of a run, or any Hugging Face folder or id with --config, the training config
that defines its prompt, sampling and verifier. For each of B rollout batches, the probe takes one
plain SGD step per estimator from the same weights on the same rollouts (ratio 1, so nothing is
clipped; no optimizer state, no gradient clipping) and restores the weights after each step. It
measures the change of full-vocabulary entropy on *other* on-policy contexts (rollouts of the same
weights on prompts that no step is taken on) and the log-prob gain of the batch's correct rollouts.

Proposition 1 (arXiv 2604.04894): to first order around (0, 0) the entropy change of a step differs
from REINFORCE's by eta (beta_pos - beta_neg) kappa. It is about a softmax table with natural
gradient steps, and a network is not a table. So here it predicts the *sign* of each shift, and that
shifts are proportional to lr (beta_pos - beta_neg) kappa over betas and batches. The scale is one
unknown constant, which is fitted and printed. A fitted scale confirms nothing.

Its kappa is over mixed groups, 0 < p < 1, and by default so is the step (--groups mixed). With
`all`, REINFORCE's constant +1 and -1 on all-solved and none-solved groups act too; the proposition
does not cover them.

The learning rate makes REINFORCE's step `step-size` times as long as the weights (global norms),
and is the same for all estimators of a batch. Runs in one process, with the local policy only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from asymrl.algo import diagnostics
from asymrl.algo.advantages import ADVANTAGES
from asymrl.algo.batch import engine_values, make_groups, minibatches, select_rows, tokenise
from asymrl.algo.loss import AGGREGATIONS, loss_denominators, policy_loss, ppo_clip
from asymrl.config.load import load_config
from asymrl.config.schema import AdvantageConfig, Config, ModelConfig, check_params
from asymrl.engines.local import LocalPolicy
from asymrl.errors import UserError, one_line
from asymrl.run.exit_codes import exit_code
from asymrl.training.rollout import generate_and_verify, rewards_and_mask
from asymrl.types import Groups, Problem, Sampling, Scored, Tokens, frozen
from studies import probe_report
from studies.probe_report import StepEffect, Trial

ESTIMATORS = ("0,0", ".25,0", ".5,0", "0,.25", "0,.5", ".5,.5", ".9,.4")
PPO = partial(policy_loss, token_loss=ppo_clip)


@frozen
class Estimator:
    """lean: beta_pos - beta_neg; None if Proposition 1 does not cover the estimator."""

    label: str
    advantages: Callable[[Groups], Tensor]
    lean: float | None


@frozen
class RolloutBatch:
    """A verified rollout batch: rewards, valid (R,). Rows that are not valid are ignored."""

    tokens: Tokens
    scored: Scored
    rewards: Tensor
    valid: Tensor


def estimator(text: str) -> Estimator:
    """`.9,.4` is asym with these betas; otherwise a name in ADVANTAGES, with its defaults."""
    if text in ADVANTAGES:
        try:
            config = AdvantageConfig(name=text)
            check_params("advantage", config)
        except ValueError as error:
            raise UserError(f"--estimators {text}: {one_line(error)}") from None
        function = partial(ADVANTAGES[text], **config.params)
        return Estimator(label=text, advantages=function, lean=None)
    try:
        pos, neg = map(float, text.split(","))
        if not (0 <= pos <= 40 and 0 <= neg <= 40):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--estimators {text!r} is neither two betas from 0 to 40, such as .9,.4, nor one of "
            f"{', '.join(ADVANTAGES)}"
        ) from None
    function = partial(ADVANTAGES["asym"], beta_pos=pos, beta_neg=neg)
    return Estimator(label=f"({pos:g}, {neg:g})", advantages=function, lean=pos - neg)


REINFORCE = estimator("0,0")


def mixed_only(batch: RolloutBatch) -> RolloutBatch:
    """Mark the rows of all-solved and none-solved groups as not valid."""
    group, zeros = batch.tokens.group, torch.zeros(int(batch.tokens.group[-1]) + 1)
    right = zeros.index_add(0, group, (batch.valid & (batch.rewards == 1)).float())
    wrong = zeros.index_add(0, group, (batch.valid & (batch.rewards == 0)).float())
    return replace(batch, valid=batch.valid & (right * wrong > 0)[group])


def trial(
    policy: LocalPolicy,
    batch: RolloutBatch,
    contexts: Tokens,
    estimators: Sequence[Estimator],
    *,
    step_size: float,
    aggregation: str,
    progress: Callable[[str], object] = lambda text: None,
) -> Trial:
    """One batch: a step of each estimator from the same weights, which are restored afterwards.

    REINFORCE is always included. UserError if it has no gradient. The entropy is over all response
    tokens of `contexts`, the gain over those of the batch's correct rollouts (nan without any).
    """
    groups = make_groups(batch.tokens, batch.scored, batch.rewards, batch.valid)
    correct, _ = select_rows(batch.tokens, batch.rewards == 1)
    entropy, old_logprobs = mean_entropy(policy, contexts), logprobs_of(policy, correct)
    backward(policy, batch, groups, REINFORCE, aggregation)
    weights = {name: weight.clone() for name, weight in policy.named_weights()}
    grad_norm = get_total_norm(gradients(policy).values())
    if not grad_norm > 0:
        raise UserError(
            "REINFORCE has no gradient on a batch: no group has both correct and wrong rollouts"
        )
    lr = step_size * (get_total_norm(weights.values()) / grad_norm).item()
    effects = {}
    for one in (REINFORCE, *(e for e in estimators if e.label != REINFORCE.label)):
        progress(one.label)
        backward(policy, batch, groups, one, aggregation)
        try:
            step(policy, weights, lr / 2)
            half = mean_entropy(policy, contexts) - entropy
            step(policy, weights, lr)
            effects[one.label] = StepEffect(
                change=mean_entropy(policy, contexts) - entropy,
                half=half,
                gain=(logprobs_of(policy, correct) - old_logprobs).mean().item(),
            )
        finally:
            step(policy, weights, 0.0)
    return Trial(
        kappa=diagnostics.kappa(groups),
        lr=lr,
        entropy=entropy,
        accuracy=batch.rewards.mean().item(),
        groups=int(groups.valid.any(1).sum()),
        effects=effects,
    )


def backward(
    policy: LocalPolicy, batch: RolloutBatch, groups: Groups, one: Estimator, aggregation: str
) -> None:
    """Compute the gradient of the batch as one mini-batch, into the parameters' `grad`.

    The model is left in eval mode, since it also generates.
    """
    (minibatch,) = minibatches(
        batch.tokens,
        batch.scored,
        one.advantages(groups).flatten()[batch.tokens.row],
        groups,
        prompts=int(batch.tokens.group[-1]) + 1,
        # any length works for `constant`: REINFORCE's step sets the scale
        loss_denominators=partial(loss_denominators, aggregation=aggregation, constant_length=1),
    )
    policy.module.train()  # layer checkpointing requires it
    policy.backward(minibatch, PPO)
    policy.module.eval()


@torch.no_grad()
def step(policy: LocalPolicy, start: Mapping[str, Tensor], lr: float) -> None:
    """weights = start - lr gradient; with lr = 0 exactly `start`, bit for bit."""
    grads = gradients(policy)
    for name, weight in policy.named_weights():
        weight.copy_(start[name])
        if lr:
            weight.sub_(grads[name], alpha=lr)


def gradients(policy: LocalPolicy) -> dict[str, Tensor]:
    grads = ((name, p.grad) for name, p in policy.named_parameters.items())
    return {name: grad for name, grad in grads if grad is not None}


def mean_entropy(policy: LocalPolicy, tokens: Tokens) -> float:
    """Mean entropy over the response tokens, in nats."""
    return policy.score(tokens)[1].double().mean().item()


def logprobs_of(policy: LocalPolicy, tokens: Tokens) -> Tensor:
    """(M,) fp64; empty without tokens."""
    return policy.score(tokens)[0].double() if len(tokens.targets) else torch.zeros(0).double()


def trials(
    problems: Sequence[Problem],
    estimators: Sequence[Estimator],
    arguments: argparse.Namespace,
    config: Config,
    *,
    policy: LocalPolicy,
    generate: Callable[..., Any],
    console: Any,
) -> Iterator[Trial]:
    """One trial a batch. Steps are taken on every second problem and measured on the others."""
    from asymrl.data.problems import sample_prompts

    count, samples, seed = arguments.prompts, arguments.group_size, arguments.seed
    draw = {"count": count, "samples": samples, "seed": seed}
    with console.status("probe") as status:
        for number in range(arguments.batches):

            def progress(phase: str, *counts: int, number: int = number) -> None:
                share = f" {counts[0]}/{counts[1]}" if counts else ""
                status.update(f"batch {number + 1}/{arguments.batches}: {phase}{share}")

            halves = []
            for half in (0, 1):
                requests = sample_prompts(
                    problems[half::2], first_draw=number * count, step=half, **draw
                )
                rollouts, verdicts = generate(requests, partial(progress, "generate"))
                rewards, valid = rewards_and_mask(rollouts, verdicts, config.rollout.truncation)
                tokens, scored = tokenise(requests, rollouts), engine_values(rollouts)
                halves.append(
                    RolloutBatch(tokens=tokens, scored=scored, rewards=rewards, valid=valid)
                )
            batch, contexts = halves
            one = trial(
                policy,
                mixed_only(batch) if arguments.groups == "mixed" else batch,
                contexts.tokens,
                estimators,
                step_size=arguments.step_size,
                aggregation=arguments.aggregation or config.loss.aggregation,
                progress=progress,
            )
            result = f"accuracy {one.accuracy:.2f}, kappa {one.kappa:+.3f} over {one.groups} groups"
            console.print(f"batch {number + 1}/{arguments.batches}: {result}")
            yield one


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.probe",
        description="Measure what one SGD step of each estimator does to entropy (Proposition 1).",
    )
    parser.add_argument("ckpt", metavar="CKPT", help="a checkpoint, a model folder or a hub id")
    parser.add_argument(
        "--config", help="training config; default: that of the run that CKPT is in"
    )
    parser.add_argument("--data", help="a data source or a file; default: the config's data.train")
    parser.add_argument("--batches", type=int, default=8, help="default: 8")
    parser.add_argument(
        "--prompts", type=int, default=32, help="prompts to step on, and as many to measure on"
    )
    parser.add_argument("--group-size", type=int, default=8, help="default: 8")
    parser.add_argument(
        "--step-size", type=float, default=1e-4, help="relative to the norm of the weights"
    )
    parser.add_argument("--groups", choices=("mixed", "all"), default="mixed", help="to step on")
    parser.add_argument("--aggregation", choices=AGGREGATIONS, help="default: the config's")
    parser.add_argument(
        "--estimators",
        nargs="+",
        default=ESTIMATORS,
        metavar="ESTIMATOR",
        help="beta_pos,beta_neg or the name of an advantage",
    )
    parser.add_argument("--out", type=Path, help="folder for probe.json and probe.png")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


BOUNDS = {
    "batches": (2, 10_000),
    "prompts": (1, 100_000),
    "group_size": (2, 10_000),
    "step_size": (1e-7, 0.1),
    "seed": (0, 2**62),
}


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(partial(run, parse(argv)))


def run(arguments: argparse.Namespace) -> None:
    for name, (least, most) in BOUNDS.items():
        value = getattr(arguments, name)
        if not least <= value <= most:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be from {least:g} to {most:g} (got {value:g})")
    estimators = [estimator(text) for text in dict.fromkeys(arguments.estimators)]
    probe_report.make_folder(arguments.out)
    from rich.console import Console

    from asymrl import verifiers
    from asymrl.engines import pretrained
    from asymrl.engines.distributed import World
    from asymrl.engines.hf import HFEngine
    from asymrl.evaluation.settings import current_verifier
    from asymrl.run import checkpoint

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 110
    tokenizer = pretrained.load_tokenizer(ModelConfig(path=arguments.ckpt))
    folder = Path(pretrained.locate(arguments.ckpt)).resolve()
    config, definitions = find_config(arguments, folder), checkpoint.read_definitions(folder)
    model = config.model.model_copy(update={"path": arguments.ckpt, "revision": None})
    pretrained.set_threads(config.policy.threads)
    chosen = config.verifier
    if definitions:
        chosen, _ = current_verifier(definitions.verifier, folder)
    with verifiers.make(**chosen.model_dump()) as verifier:
        problems = load_problems(arguments, config, definitions, tokenizer, verifier)
        stop_ids = pretrained.stop_ids(model, tokenizer, config.rollout.stop)
        sampling = Sampling(
            temperature=config.rollout.temperature,
            top_p=1.0,
            top_k=0,
            max_tokens=config.rollout.max_tokens,
            stop_ids=tuple(definitions.sampling.stop_ids) if definitions else stop_ids,
        )
        longest = max(len(problem.prompt_ids) for problem in problems)
        pretrained.check_positions(model, longest + sampling.max_tokens)
        causal_lm = pretrained.load_model(model, torch.float32)
        engine = HFEngine(causal_lm, tokenizer.decode, config.rollout.max_rows)
        parts = {"engine": engine, "verifier": verifier, "sampling": sampling, "world": World()}
        results = trials(
            problems,
            estimators,
            arguments,
            config,
            policy=make_policy(causal_lm, config),  # the engine's own weights, so exactly on-policy
            generate=partial(generate_and_verify, **parts),
            console=console,
        )
        leans = {one.label: one.lean for one in (REINFORCE, *estimators)}
        settings = {**vars(arguments), "data": arguments.data or config.data.train}
        probe_report.report(list(results), leans, settings, console)


def find_config(arguments: argparse.Namespace, checkpoint: Path) -> Config:
    """--config, or the config of the run folder that holds the checkpoint."""
    file = checkpoint.parent.parent / "config.yaml"
    if arguments.config:
        return load_config(arguments.config)
    if checkpoint.parent.name == "checkpoints" and file.is_file():
        return load_config(str(file))
    raise UserError(
        f"{arguments.ckpt} is not a checkpoint in a run folder, so --config must name the training "
        "config with its prompt, sampling and verifier, for example --config pocket.yaml"
    )


def load_problems(
    arguments: argparse.Namespace, config: Config, definitions: Any, tokenizer: Any, verifier: Any
) -> tuple[Problem, ...]:
    """UserError if there are fewer than 2 x --prompts problems."""
    from asymrl.data import problems as data
    from asymrl.data.readers import Fields
    from asymrl.data.reasoning_gym import GymSettings
    from asymrl.data.sources import training_subset

    fields, source = config.data, arguments.data or config.data.train
    loader = data.ProblemLoader(
        tokenizer=tokenizer,
        prompt=definitions.prompt.model_dump() if definitions else fields.prompt,
        max_prompt_tokens=fields.max_prompt_tokens,
        fields=Fields(problem=fields.problem_field, answer=fields.answer_field),
        verifier=verifier,
        gym=GymSettings(**fields.gym),
    )
    subset = training_subset(config.data.train, fields.config, fields.split)
    loaded = loader.load(source, subset=subset)
    for note in loaded.notes:
        print(f"note: {note}", file=sys.stderr)
    if len(loaded.problems) < 2 * arguments.prompts:
        raise UserError(
            f"--prompts {arguments.prompts} requires {2 * arguments.prompts} problems, half of "
            f"them to measure on; {source} has {len(loaded.problems)}"
        )
    return loaded.problems


def make_policy(model: Any, config: Config) -> LocalPolicy:
    """For scores and gradients in fp32. Its optimizer is not used."""
    settings = config.policy.model_copy(update={"dtype": "float32"})
    return LocalPolicy(
        model, temperature=config.rollout.temperature, optim=config.optim, settings=settings
    )


if __name__ == "__main__":
    sys.exit(main())
