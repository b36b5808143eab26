"""The one-step probe of Proposition 1: what one SGD step of each estimator does to entropy.

    python -m studies.probe CKPT [--config NAME] [--data SOURCE_OR_FILE] [--batches 8]
        [--prompts 32] [--group-size 8] [--step-size 1e-4] [--groups mixed|all]
        [--estimators 0,0 .5,0 ent_increase ...] [--out DIR]

CKPT is a checkpoint of a run, or any Hugging Face folder or id with --config, the training config
that says how it is asked, sampled and judged. From these same weights, for each of B rollout
batches: one plain SGD step per estimator on the same rollouts (ratio 1, so nothing is clipped; no
optimizer state, no clipping of norms), the weights put back after each. Measured: the change of
full-vocabulary entropy on *other* on-policy contexts, rollouts of the same weights on prompts of
which none is ever stepped on, and the log-prob gain of the batch's correct rollouts.

Proposition 1 (arXiv 2604.04894): to first order around (0, 0) the entropy change of a step differs
from REINFORCE's by eta (beta_pos - beta_neg) kappa. It is about a softmax table whose steps are
natural in its own coordinates; a network is no table. So what it predicts here is the *sign*, and
that shifts are in proportion to lr (beta_pos - beta_neg) kappa over betas and batches; the scale is
one unknown constant, which is fitted and shown. What is fitted cannot be confirmed.

Its kappa is over mixed groups, 0 < p < 1, and so by default is the step (--groups mixed). With
`all`, REINFORCE's constant +1 and -1 on groups of one kind act too, of which it says nothing.

The learning rate makes REINFORCE's step `step-size` times as long as the weights (global norms),
and is the same for all estimators of a batch. Knows one process and the local policy only.
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
from asymrl.algo.loss import AGGREGATIONS, loss_denominators, ppo_clip
from asymrl.config.load import load_config
from asymrl.config.schema import AdvantageConfig, Config, ModelConfig, check_params
from asymrl.engines.local import LocalPolicy
from asymrl.errors import UserError
from asymrl.training.rollout import generate_and_verify, rewards_and_mask
from asymrl.types import Groups, Problem, Sampling, Scored, Tokens, frozen
from studies import probe_report
from studies.probe_report import Moved, Trial

ESTIMATORS = ("0,0", ".25,0", ".5,0", "0,.25", "0,.5", ".5,.5", ".9,.4")
PPO = partial(ppo_clip, clip_low=0.2, clip_high=0.2, entropy_bonus=0.0)


@frozen
class Estimator:
    """lean: beta_pos - beta_neg; None where Proposition 1 says nothing of it."""

    label: str
    advantages: Callable[[Groups], Tensor]
    lean: float | None


@frozen
class Sample:
    """A judged rollout batch: rewards, valid (R,); rows that are not valid take no part."""

    tokens: Tokens
    scored: Scored
    rewards: Tensor
    valid: Tensor


def estimator(text: str) -> Estimator:
    """`.9,.4` is asym at these betas; else a name of ADVANTAGES, at its own defaults."""
    if text in ADVANTAGES:
        try:
            chosen = AdvantageConfig(name=text)
            check_params("advantage", chosen)
        except ValueError as error:
            raise UserError(f"--estimators {text}: {error}") from None
        function = partial(ADVANTAGES[text], **chosen.params)
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


def mixed_only(sample: Sample) -> Sample:
    """Rows of groups that are all right or all wrong leave: they are not valid."""
    group, of_groups = sample.tokens.group, torch.zeros(int(sample.tokens.group[-1]) + 1)
    right = of_groups.index_add(0, group, (sample.valid & (sample.rewards == 1)).float())
    wrong = of_groups.index_add(0, group, (sample.valid & (sample.rewards == 0)).float())
    return replace(sample, valid=sample.valid & (right * wrong > 0)[group])


def trial(
    policy: LocalPolicy,
    sample: Sample,
    other: Tokens,
    estimators: Sequence[Estimator],
    *,
    step_size: float,
    aggregation: str,
    tell: Callable[[str], object] = lambda text: None,
) -> Trial:
    """One batch: a step of each estimator from the same weights, which are the same afterwards.

    REINFORCE is always among them. UserError where it has no gradient. The entropy is over all
    response tokens of `other`, the gain over those of the sample's correct rollouts (nan if none).
    """
    groups = make_groups(sample.tokens, sample.scored, sample.rewards, sample.valid)
    correct, _ = select_rows(sample.tokens, sample.rewards == 1)
    entropy, old = mean_entropy(policy, other), logprobs_of(policy, correct)
    backward(policy, sample, groups, REINFORCE, aggregation)
    kept = {name: weight.clone() for name, weight in policy.named_weights()}
    weights, slope = get_total_norm(kept.values()), get_total_norm(gradients(policy).values())
    if not slope > 0:
        raise UserError("REINFORCE has no gradient on a batch: no group has right and wrong ones")
    lr = step_size * (weights / slope).item()
    moved = {}
    for one in (REINFORCE, *(e for e in estimators if e.label != REINFORCE.label)):
        tell(one.label)
        backward(policy, sample, groups, one, aggregation)
        try:
            step(policy, kept, lr / 2)
            half = mean_entropy(policy, other) - entropy
            step(policy, kept, lr)
            moved[one.label] = Moved(
                change=mean_entropy(policy, other) - entropy,
                half=half,
                gain=(logprobs_of(policy, correct) - old).mean().item(),
            )
        finally:
            step(policy, kept, 0.0)
    return Trial(
        kappa=diagnostics.kappa(groups),
        lr=lr,
        entropy=entropy,
        accuracy=sample.rewards.mean().item(),
        groups=int(groups.valid.any(1).sum()),
        moved=moved,
    )


def backward(
    policy: LocalPolicy, sample: Sample, groups: Groups, one: Estimator, aggregation: str
) -> None:
    """The gradient of the batch as one mini-batch, into the parameters' `grad`.

    Between gradients the model is in eval mode: it also generates.
    """
    (batch,) = minibatches(
        sample.tokens,
        sample.scored,
        one.advantages(groups).flatten()[sample.tokens.row],
        groups,
        prompts=int(sample.tokens.group[-1]) + 1,
        entropy_bonus=0.0,
        # of `constant` any length will do: REINFORCE's step sets the scale
        loss_denominators=partial(loss_denominators, aggregation=aggregation, constant_length=1),
    )
    policy.module.train()  # layer checkpointing wants it
    policy.backward(batch, PPO)
    policy.module.eval()


@torch.no_grad()
def step(policy: LocalPolicy, kept: Mapping[str, Tensor], lr: float) -> None:
    """weights = kept - lr gradient; at lr 0 bit by bit what was kept."""
    slopes = gradients(policy)
    for name, weight in policy.named_weights():
        weight.copy_(kept[name])
        if lr:
            weight.sub_(slopes[name], alpha=lr)


def gradients(policy: LocalPolicy) -> dict[str, Tensor]:
    found = ((name, p.grad) for name, p in policy.module.named_hf_parameters())
    return {name: grad for name, grad in found if grad is not None}


def mean_entropy(policy: LocalPolicy, tokens: Tokens) -> float:
    """Nats a token, over fixed contexts."""
    return policy.score(tokens)[1].double().mean().item()


def logprobs_of(policy: LocalPolicy, tokens: Tokens) -> Tensor:
    """(M,) fp64; of no tokens, none."""
    return policy.score(tokens)[0].double() if len(tokens.targets) else torch.zeros(0).double()


def trials(
    problems: Sequence[Problem],
    estimators: Sequence[Estimator],
    arguments: argparse.Namespace,
    config: Config,
    *,
    policy: LocalPolicy,
    roll: Callable[..., Any],
    console: Any,
) -> Iterator[Trial]:
    """One a batch. Every second problem is only ever measured on, the others only stepped on."""
    from asymrl.data.problems import sample_prompts

    count, samples, seed = arguments.prompts, arguments.group_size, arguments.seed
    wanted = {"count": count, "samples": samples, "seed": seed}
    with console.status("probe") as status:
        for number in range(arguments.batches):

            def tell(what: str, *counts: int, number: int = number) -> None:
                share = f" {counts[0]}/{counts[1]}" if counts else ""
                status.update(f"batch {number + 1}/{arguments.batches}: {what}{share}")

            judged = []
            for half in (0, 1):
                which = problems[half::2]
                requests = sample_prompts(which, first_draw=number * count, step=half, **wanted)
                rollouts, verdicts = roll(requests, partial(tell, "generate"))
                rewards, valid = rewards_and_mask(rollouts, verdicts, config.rollout.truncation)
                tokens, scored = tokenise(requests, rollouts), engine_values(rollouts)
                judged.append(Sample(tokens=tokens, scored=scored, rewards=rewards, valid=valid))
            mine, other = judged
            one = trial(
                policy,
                mixed_only(mine) if arguments.groups == "mixed" else mine,
                other.tokens,
                estimators,
                step_size=arguments.step_size,
                aggregation=arguments.aggregation or config.loss.aggregation,
                tell=tell,
            )
            found = f"accuracy {one.accuracy:.2f}, kappa {one.kappa:+.3f} over {one.groups} groups"
            console.print(f"batch {number + 1}/{arguments.batches}: {found}")
            yield one


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.probe", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("ckpt", metavar="CKPT", help="a checkpoint, a model folder or a hub id")
    parser.add_argument("--config", help="default: the config of the run that CKPT is in")
    parser.add_argument("--data", help="a source or a file; default: the config's data.train")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=32, help="of each batch, and to measure on")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--step-size", type=float, default=1e-4, help="of the weights' norm")
    parser.add_argument("--groups", choices=("mixed", "all"), default="mixed")
    parser.add_argument("--aggregation", choices=AGGREGATIONS, help="default: the config's")
    parser.add_argument("--estimators", nargs="+", default=ESTIMATORS, metavar="ESTIMATOR")
    parser.add_argument("--out", type=Path, help="a folder for probe.json and probe.png")
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
    try:
        run(parse(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def run(arguments: argparse.Namespace) -> None:
    for name, (least, most) in BOUNDS.items():
        given = getattr(arguments, name)
        if not least <= given <= most:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {given:g} must be from {least:g} to {most:g}")
    estimators = [estimator(text) for text in dict.fromkeys(arguments.estimators)]
    probe_report.make_folder(arguments.out)
    from rich.console import Console

    from asymrl import verifiers
    from asymrl.engines import pretrained
    from asymrl.engines.distributed import World
    from asymrl.engines.hf import HFEngine
    from asymrl.run.checkpoint import read_definitions

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 110
    tokenizer = pretrained.load_tokenizer(ModelConfig(path=arguments.ckpt))
    where = Path(pretrained.locate(arguments.ckpt)).resolve()
    config, defined = config_of(arguments, where), read_definitions(where)
    model = config.model.model_copy(update={"path": arguments.ckpt, "revision": None})
    pretrained.set_threads(config.policy.threads)
    with verifiers.make(**(defined or config).verifier.model_dump()) as verifier:
        problems = load_problems(arguments, config, defined, tokenizer, verifier)
        stop_ids = pretrained.stop_ids(model, tokenizer, config.rollout.stop)
        sampling = Sampling(
            temperature=config.rollout.temperature,
            top_p=1.0,
            top_k=0,
            max_tokens=config.rollout.max_tokens,
            stop_ids=tuple(defined.sampling.stop_ids) if defined else stop_ids,
        )
        longest = max(len(problem.prompt_ids) for problem in problems)
        pretrained.check_positions(model, longest + sampling.max_tokens)
        causal_lm = pretrained.load_model(model, torch.float32)
        engine = HFEngine(causal_lm, tokenizer.decode, config.rollout.max_rows)
        parts = {"engine": engine, "verifier": verifier, "sampling": sampling, "world": World()}
        made = trials(
            problems,
            estimators,
            arguments,
            config,
            policy=make_policy(causal_lm, config),  # the engine's own weights: on policy by nature
            roll=partial(generate_and_verify, **parts),
            console=console,
        )
        leans = {one.label: one.lean for one in (REINFORCE, *estimators)}
        asked = {**vars(arguments), "data": arguments.data or config.data.train}
        probe_report.report(list(made), leans, asked, console)


def config_of(arguments: argparse.Namespace, where: Path) -> Config:
    """--config, else that of the run folder that the checkpoint lies in."""
    beside = where.parent.parent / "config.yaml"
    if arguments.config:
        return load_config(arguments.config)
    if where.parent.name == "checkpoints" and beside.is_file():
        return load_config(str(beside))
    raise UserError(
        f"{arguments.ckpt} is not a checkpoint in a run folder, so --config must name the training "
        "config that says how it is asked, sampled and judged, such as --config pocket.yaml"
    )


def load_problems(
    arguments: argparse.Namespace, config: Config, defined: Any, tokenizer: Any, verifier: Any
) -> tuple[Problem, ...]:
    """Twice as many as a batch has prompts, or more."""
    from asymrl.data import problems as data

    own, source = config.data, arguments.data or config.data.train
    loaded = data.load_problems(
        source,
        tokenizer=tokenizer,
        prompt=defined.prompt.model_dump() if defined else own.prompt,
        max_prompt_tokens=own.max_prompt_tokens,
        problem_field=own.problem_field,
        answer_field=own.answer_field,
        verifier=verifier,
    )
    for note in loaded.notes:
        print(f"note: {note}", file=sys.stderr)
    if len(loaded.problems) < 2 * arguments.prompts:
        raise UserError(
            f"--prompts {arguments.prompts} needs {2 * arguments.prompts} problems, half of them "
            f"to measure on; {source} has {len(loaded.problems)}"
        )
    return loaded.problems


def make_policy(model: Any, config: Config) -> LocalPolicy:
    """For scores and gradients in fp32; its optimizer is never used."""
    adamw: dict[str, Any] = {"lr": 0.0, "betas": (0.0, 0.0), "weight_decay": 0.0}
    unused = adamw | {"max_grad_norm": 1.0, "warmup_updates": 0}
    return LocalPolicy(
        model,
        **unused,
        temperature=config.rollout.temperature,
        token_budget=config.policy.token_budget,
        bf16=False,
        gradient_checkpointing=config.policy.gradient_checkpointing,
    )


if __name__ == "__main__":
    sys.exit(main())
