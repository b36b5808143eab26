"""The loop: rollouts, rewards, advantages, updates, in the order they happen.

take problems -> generate, verify as they finish -> rewards -> score -> advantages -> batch ->
update over mini-batches -> sync weights, checked -> maybe evaluate -> log -> maybe save
                            -> maybe stop before the end

All collaborators come in as arguments. The loop knows no engine, no framework and no file. Every
rank runs it: each generates and verifies its share of the prompts, all know all rollouts, and the
policy gives each its share of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from asymrl.algo.batch import engine_values, make_groups, tokenise
from asymrl.config.schema import Config
from asymrl.engines.flops import utilisation
from asymrl.engines.policy import Policy
from asymrl.engines.rollout import RolloutEngine, fingerprint
from asymrl.errors import UserError
from asymrl.run.alerts import skipped_in_a_row, stop_if_diverged
from asymrl.run.tracking import Clock, Tracker
from asymrl.training.algorithm import (
    Algorithm,
    build_algorithm,
    coefficient_metrics,
    schedule_inputs,
)
from asymrl.training.metrics import logprob_gain, rollout_metrics, update_metrics
from asymrl.training.rollout import rewards_and_mask, sample_rows, with_values
from asymrl.types import Position, Problem, Rollout, Stopped, UpdateStats, Verdict, frozen

RollOut = Callable[..., tuple[list[Rollout], list[Verdict]]]


@frozen
class StepResult:
    """A step that was taken. rows: its rollouts, to read; tokens: the response tokens in them."""

    position: Position
    metrics: dict[str, float]
    updates: Sequence[UpdateStats]
    rows: Iterable[Mapping[str, Any]]
    tokens: int


def train(
    config: Config,
    *,
    problems: Sequence[Problem],
    engine: RolloutEngine,
    policy: Policy,
    roll_out: RollOut,
    evaluate: Callable[[int], Mapping[str, float]],
    save: Callable[[Position], object],
    stop: Callable[[Mapping[str, float]], Stopped | None],
    tracker: Tracker,
    start: Position,
) -> Stopped | None:
    """Train from `start` to config.steps, or until stop(metrics) says why to end before that; what
    is done is saved then. evaluate(step) gives metrics."""
    method = build_algorithm(config, problems)
    position = replace(start, schedule=start.schedule or method.begin)
    saved, skipped, stopped = start.step, 0, None
    tracker.phase("sync")
    sync_weights(policy, engine, check=True)
    metrics = dict(evaluate(0)) if start.step == 0 else {}
    if start.step == 0:
        tracker.log(0, metrics)

    while position.step < config.steps and not (stopped := stop(metrics)):
        step, clock = position.step + 1, Clock(tracker)
        check = due(step - start.step, config.rollout.sync_check_every, 1)
        taken = train_step(config, method, position, engine, policy, roll_out, stop, clock, check)
        if isinstance(taken, Stopped):
            stopped = taken
            break
        metrics = taken.metrics
        if due(step, config.eval.every, config.steps):
            with clock("evaluate"):
                metrics |= evaluate(step)
        tracker.log(step, metrics | update_metrics(taken.updates, clock.metrics(), taken.tokens))
        skipped = skipped_in_a_row(skipped, taken.updates)
        if step == 1 or skipped or due(step, config.tracking.rollouts_every, config.steps):
            tracker.rollouts(step, taken.rows)
        stop_if_diverged(step, skipped, taken.updates, most=config.optim.max_skipped)
        position = taken.position
        if due(step, config.checkpoint.every, config.steps) and not skipped:
            saved = save_checkpoint(position, save, tracker)
    if saved < position.step:
        save_checkpoint(position, save, tracker)
    return stopped


def save_checkpoint(
    position: Position, save: Callable[[Position], object], tracker: Tracker
) -> int:
    """The step that is saved."""
    tracker.phase("save")
    save(position)
    return position.step


def train_step(
    config: Config,
    method: Algorithm,
    position: Position,
    engine: RolloutEngine,
    policy: Policy,
    roll_out: RollOut,
    stop: Callable[[Mapping[str, float]], Stopped | None],
    clock: Clock,
    check: bool,
) -> StepResult | Stopped:
    """One rollout batch, its updates, and the new weights in the engine, compared if `check`."""
    step, coefficients = position.step + 1, position.schedule

    with clock("generate"):
        requests = method.take(first_draw=position.draws, step=step)
        rollouts, verdicts = roll_out(requests, clock.tell, clock("verify_wait"))
        rewards, valid = rewards_and_mask(rollouts, verdicts, config.rollout.truncation)
    if stopped := stop({}):
        return stopped  # nothing has changed yet: the step is dropped, and taken another time

    with clock("sleep"):
        engine.sleep()
    with clock("score"):
        tokens = tokenise(requests, rollouts)
        scored = engine_values(rollouts) if engine.exact_logprobs else policy.score(tokens)

    with clock("update"):
        groups = make_groups(tokens, scored, rewards, valid)
        advantages = method.estimate(groups, coefficients)
        of_tokens = method.spread(advantages, groups, tokens, scored, rollouts)
        batches = method.cut(tokens, scored, of_tokens, groups)
        batches *= config.optim.epochs
        updates = [policy.update(part, method.loss) for part in batches]

    metrics = rollout_metrics(groups, advantages, tokens, scored, rollouts, verdicts)
    metrics |= coefficient_metrics(config.advantage.params, coefficients)
    coefficients = method.move(coefficients, schedule_inputs(step, config.steps, groups, metrics))
    if due(step, config.tracking.logprob_gain_every, config.steps):
        with clock("gain"):
            metrics |= logprob_gain(policy, tokens, scored, rewards)

    with clock("sync"):
        sync_weights(policy, engine, check=check)

    passed = None if engine.exact_logprobs else tokens
    metrics |= utilisation(policy.work, passed, batches, clock.metrics())
    rows = sample_rows(requests, rollouts, verdicts)
    return StepResult(
        position=Position(step=step, draws=position.draws + len(requests), schedule=coefficients),
        metrics=metrics,
        updates=updates,
        rows=with_values(rows, rewards, valid, advantages),
        tokens=len(tokens.targets),
    )


def sync_weights(policy: Policy, engine: RolloutEngine, *, check: bool) -> None:
    """Make room for the engine and hand it the policy's weights; `check` compares what arrived,
    tensor by tensor."""
    policy.sleep()
    engine.load_weights(policy.named_weights())
    if not check:
        return
    for name, tensor in policy.named_weights():
        sent = fingerprint(tensor.to(engine.weight_dtype))
        if not math.isfinite(sent):
            raise UserError(f"the weights of {name} are not finite; begin from another checkpoint")
        arrived = engine.fingerprint([name])[name]
        if not math.isclose(sent, arrived, rel_tol=1e-9, abs_tol=1e-9):
            raise RuntimeError(
                f"weight sync failed: {name} is {sent} in the policy and {arrived} in the engine"
            )


def due(step: int, every: int, also: int) -> bool:
    """On each multiple of `every` and at step `also`; never when `every` is 0."""
    return every > 0 and (step % every == 0 or step == also)
