"""The algorithm that a config selects: prompt sampling, advantages, mini-batches, loss, schedule.

Binds the values of a config to the pure functions of algo/ and data/problems.py. Uses no engine and
reads no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from asymrl.algo.batch import engine_logprobs, minibatches
from asymrl.algo.loss import importance_weights, loss_denominators, policy_loss
from asymrl.algo.overlong import overlong_penalty
from asymrl.algo.schedules import StepStats
from asymrl.config.schema import Config, EntropyControlConfig, LossConfig
from asymrl.data.problems import sample_prompts
from asymrl.types import (
    Batch,
    Experience,
    Groups,
    LossFn,
    Problem,
    Request,
    TokenGroups,
    frozen,
)

BONUS = "entropy_bonus"
"""The name under which the schedule's state holds the bonus, if loss.entropy_control is set."""


@frozen
class Algorithm:
    """Pure functions with their settings bound; the loop calls them in this order.

    sample_prompts(first_draw=, step=, count=) -> requests, by default of a whole batch
    advantages(groups, schedule) -> (R,)
    penalties(groups) -> (N, G), which advantages subtracts; None without rollout.overlong
    to_token_advantages(experience) -> (M,)
    to_minibatches(experience, token_advantages, schedule) -> mini-batches, and their loss
    update_schedule(schedule, step_stats) -> the schedule's state for the next step
    init_schedule: its state at step 1
    """

    sample_prompts: Callable[..., list[Request]]
    advantages: Callable[[Groups, Mapping[str, float]], Tensor]
    penalties: Callable[[Groups], Tensor] | None
    to_token_advantages: Callable[[Experience], Tensor]
    to_minibatches: Callable[[Experience, Tensor, Mapping[str, float]], tuple[list[Batch], LossFn]]
    update_schedule: Callable[[Mapping[str, float], StepStats], Mapping[str, float]]
    init_schedule: Mapping[str, float]


def build_algorithm(config: Config, problems: Sequence[Problem]) -> Algorithm:
    rollout, loss, params = config.rollout, config.loss, config.advantage.params
    control = loss.entropy_control
    penalties = None
    if rollout.overlong:
        overlong = rollout.overlong.model_dump()
        penalties = partial(_penalties, max_tokens=rollout.max_tokens, **overlong)
    return Algorithm(
        sample_prompts=partial(
            sample_prompts,
            problems,
            count=rollout.prompts,
            samples=rollout.group_size,
            seed=config.seed,
        ),
        advantages=partial(
            _advantages, estimator=config.advantage.function, params=params, penalties=penalties
        ),
        penalties=penalties,
        to_token_advantages=partial(
            _to_token_advantages,
            reweight=partial(config.reweight.function, **config.reweight.params),
            level=loss.importance_sampling,
            cap=loss.importance_cap,
        ),
        to_minibatches=partial(
            _to_minibatches,
            config=loss,
            cut=partial(
                minibatches,
                prompts=config.optim.minibatch_prompts,
                loss_denominators=partial(
                    loss_denominators,
                    aggregation=loss.aggregation,
                    constant_length=loss.constant_length or rollout.max_tokens,
                ),
            ),
        ),
        update_schedule=partial(
            _update_schedule,
            update=partial(config.schedule.function, **config.schedule.params),
            control=control,
        ),
        init_schedule={name: x for name, x in params.items() if isinstance(x, float)}
        | ({BONUS: loss.entropy_bonus} if control else {}),
    )


def _advantages(
    groups: Groups,
    schedule: Mapping[str, float],
    *,
    estimator: Callable[..., Tensor],
    params: Mapping[str, float],
    penalties: Callable[[Groups], Tensor] | None,
) -> Tensor:
    """(R,): the estimator's advantages, with the schedule's parameters for the config's, minus the
    penalties; 0 for an invalid rollout, whatever the estimator returns."""
    scheduled = {key: schedule[key] for key in params if key in schedule}
    advantages = estimator(groups, **{**params, **scheduled})
    assert advantages.shape == groups.rewards.shape, (advantages.shape, groups.rewards.shape)
    if penalties:
        advantages = advantages - penalties(groups)
    return torch.where(groups.valid, advantages.to(groups.rewards), 0.0).flatten()


def _penalties(groups: Groups, **settings: Any) -> Tensor:
    return overlong_penalty(groups.lengths, **settings)


def _to_token_advantages(
    experience: Experience, *, reweight: Callable[[TokenGroups], Tensor], level: str, cap: float
) -> Tensor:
    """(M,): the advantage of each token's row, reweighted, times the token's importance weight."""
    tokens, (logprobs, entropy) = experience.tokens, experience.scored
    token_groups = TokenGroups(
        advantages=experience.advantages[tokens.row],
        logprobs=logprobs,
        entropy=entropy,
        loss_mask=experience.valid[tokens.row].float(),
        row=tokens.row,
        group=tokens.group[tokens.row],
    )
    weights = importance_weights(
        logprobs, engine_logprobs(experience.rollouts), tokens.row, level=level, cap=cap
    )
    advantages = reweight(token_groups)
    assert advantages.shape == token_groups.advantages.shape, advantages.shape
    return advantages.to(token_groups.advantages) * weights


def _to_minibatches(
    experience: Experience,
    token_advantages: Tensor,
    schedule: Mapping[str, float],
    *,
    config: LossConfig,
    cut: Callable[..., list[Batch]],
) -> tuple[list[Batch], LossFn]:
    """The mini-batches, and the loss with this step's entropy bonus."""
    bonus = config.entropy_bonus
    if control := config.entropy_control:
        _, entropy = experience.scored
        bonus = schedule[BONUS] if entropy.double().mean() < control.target else 0.0
    batches = cut(
        experience.tokens,
        experience.scored,
        token_advantages,
        experience.groups,
        every_row=bool(bonus or config.kl_coef),
        reference_logprobs=experience.reference_logprobs,
    )
    loss = partial(
        policy_loss,
        token_loss=partial(config.function, **config.params),
        entropy_bonus=bonus,
        kl_coef=config.kl_coef,
        kl_estimator=config.kl_estimator,
    )
    return batches, loss


def _update_schedule(
    schedule: Mapping[str, float],
    stats: StepStats,
    *,
    update: Callable[[Mapping[str, float], StepStats], Mapping[str, float]],
    control: EntropyControlConfig | None,
) -> Mapping[str, float]:
    """The state for the next step: the schedule's betas, and the bonus under an entropy control."""
    if control is None:
        return update(schedule, stats)
    betas = {name: value for name, value in schedule.items() if name != BONUS}
    move = control.step if stats.entropy < control.target else -control.step
    bonus = min(max(schedule[BONUS] + move, 0.0), control.max)
    return {**update(betas, stats), BONUS: bonus}


def schedule_inputs(
    step: int, steps: int, groups: Groups, metrics: Mapping[str, float]
) -> StepStats:
    """The statistics of a finished step that a schedule receives."""
    valid_per_group = groups.valid.sum(1)
    nonempty = valid_per_group > 0
    correct = (groups.valid & (groups.rewards == 1)).sum(1)
    accuracy = correct[nonempty] / valid_per_group[nonempty]
    return StepStats(
        step=step,
        steps=steps,
        accuracy=tuple(accuracy.tolist()),
        solved=metrics["reward/mean"],
        kappa=metrics["diag/kappa"],
        entropy=metrics["policy/entropy"],
    )


def penalty_metrics(algorithm: Algorithm, groups: Groups) -> dict[str, float]:
    """rollout/overlong_penalty, with rollout.overlong only: the mean over the batch's rollouts."""
    if algorithm.penalties is None:
        return {}
    return {"rollout/overlong_penalty": algorithm.penalties(groups).mean().item()}


def schedule_metrics(
    params: Mapping[str, float], schedule: Mapping[str, float]
) -> dict[str, float]:
    """Metrics: current parameters of the estimator as advantage/*, other schedule state as
    schedule/*."""
    in_use = {f"advantage/{name}": schedule.get(name, value) for name, value in params.items()}
    other = {f"schedule/{name}": x for name, x in schedule.items() if name not in params}
    return in_use | other
