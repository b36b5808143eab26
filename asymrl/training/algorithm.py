"""What a config chooses: the draw, the estimator, the reweighter, the cut, the loss, the schedule.

Binds the numbers of a config to the pure functions of algo/, batch.py and data.py, so that the
loop reads as its sentence. Knows names and numbers, no engine and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from asymrl.algo.advantages import ADVANTAGES
from asymrl.algo.batch import engine_logprobs, minibatches
from asymrl.algo.loss import importance_weights, loss_denominators, ppo_clip
from asymrl.algo.reweight import REWEIGHT
from asymrl.algo.schedules import SCHEDULES, StepStats
from asymrl.config.schema import Config
from asymrl.data.problems import sample_prompts
from asymrl.types import (
    Batch,
    Groups,
    LossFn,
    Problem,
    Request,
    Rollout,
    Scored,
    TokenGroups,
    Tokens,
    frozen,
)

MOVED = ("beta_pos", "beta_neg")
"""The coefficients of an estimator that a schedule may move."""


@frozen
class Algorithm:
    """take(first_draw, step) -> requests; estimate(groups, coefficients) -> advantages (R,);
    spread(advantages, groups, tokens, scored, rollouts) -> (M,); cut(tokens, scored, advantages
    (M,), groups) -> mini-batches; loss; move(coefficients, seen) -> the next step's; `begin`: the
    first step's."""

    take: Callable[..., list[Request]]
    estimate: Callable[[Groups, Mapping[str, float]], Tensor]
    spread: Callable[..., Tensor]
    cut: Callable[..., list[Batch]]
    loss: LossFn
    move: Callable[[Mapping[str, float], StepStats], Mapping[str, float]]
    begin: Mapping[str, float]


def build_algorithm(config: Config, problems: Sequence[Problem]) -> Algorithm:
    rollout, loss, params = config.rollout, config.loss, config.advantage.params
    return Algorithm(
        take=partial(
            sample_prompts, problems, rollout.prompts, samples=rollout.group_size, seed=config.seed
        ),
        estimate=partial(estimate, name=config.advantage.name, params=params),
        spread=partial(
            spread,
            reweight=partial(REWEIGHT[config.reweight.name], **config.reweight.params),
            level=loss.importance_sampling,
            cap=loss.importance_cap,
        ),
        cut=partial(
            minibatches,
            prompts=config.optim.minibatch_prompts,
            entropy_bonus=loss.entropy_bonus,
            loss_denominators=partial(
                loss_denominators,
                aggregation=loss.aggregation,
                constant_length=loss.constant_length or rollout.max_tokens,
            ),
        ),
        loss=partial(
            ppo_clip,
            clip_low=loss.clip_low,
            clip_high=loss.clip_high,
            entropy_bonus=loss.entropy_bonus,
        ),
        move=partial(SCHEDULES[config.schedule.name], **config.schedule.params),
        begin={name: params[name] for name in MOVED if name in params},
    )


def estimate(
    groups: Groups, coefficients: Mapping[str, float], *, name: str, params: Mapping[str, float]
) -> Tensor:
    """(R,): the estimator's advantages, with what a schedule moves in place of the config's."""
    moved = {key: coefficients[key] for key in MOVED if key in params}
    return ADVANTAGES[name](groups, **{**params, **moved}).flatten()


def spread(
    advantages: Tensor,
    groups: Groups,
    tokens: Tokens,
    scored: Scored,
    rollouts: Sequence[Rollout],
    *,
    reweight: Callable[[TokenGroups], Tensor],
    level: str,
    cap: float,
) -> Tensor:
    """(M,): each token has its row's advantage (R,), reweighted, and weighed by truncated
    importance sampling."""
    logprobs, entropy = scored
    of_tokens = TokenGroups(
        advantages=advantages[tokens.row],
        logprobs=logprobs,
        entropy=entropy,
        loss_mask=groups.valid.flatten()[tokens.row].float(),
        row=tokens.row,
        group=tokens.group[tokens.row],
    )
    weights = importance_weights(
        logprobs, engine_logprobs(rollouts), tokens.row, level=level, cap=cap
    )
    return reweight(of_tokens) * weights


def schedule_inputs(
    step: int, steps: int, groups: Groups, metrics: Mapping[str, float]
) -> StepStats:
    """What a schedule may see of a finished step."""
    counted = groups.valid.any(1)
    correct = (groups.valid & (groups.rewards == 1)).sum(1)
    accuracy = correct[counted] / groups.valid.sum(1)[counted]
    return StepStats(
        step=step,
        steps=steps,
        accuracy=tuple(accuracy.tolist()),
        kappa=metrics["diag/kappa"],
        entropy=metrics["policy/entropy"],
    )


def coefficient_metrics(
    params: Mapping[str, float], coefficients: Mapping[str, float]
) -> dict[str, float]:
    """The estimator's numbers as advantage/*, what else a schedule keeps as schedule/*."""
    numbers = {name: coefficients.get(name, number) for name, number in params.items()}
    kept = {name: number for name, number in coefficients.items() if name not in params}
    return {f"advantage/{name}": number for name, number in numbers.items()} | {
        f"schedule/{name}": number for name, number in kept.items()
    }
