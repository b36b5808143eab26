"""The loop: rollouts, rewards, advantages, updates, in the order they happen.

take problems -> generate, verify as they finish -> rewards -> score -> advantages -> batch ->
update over mini-batches -> sync weights, checked -> maybe evaluate -> log -> maybe save

All collaborators come in as arguments. The loop knows no engine, no framework and no file. Every
rank runs it: each generates and verifies its share of the prompts, all know all rollouts, and the
policy gives each its share of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from asymrl.batch import engine_values, make_groups, tokenise
from asymrl.checkpoint import Position
from asymrl.engines.policy import Policy
from asymrl.engines.rollout import RolloutEngine, fingerprint
from asymrl.evaluate import sample_rows
from asymrl.methods import coefficient_metrics, methods, observe
from asymrl.metrics import logprob_gain, rollout_metrics, update_metrics
from asymrl.schema import Config
from asymrl.tracking import Clock, Tracker
from asymrl.types import Problem, Rollout, Verdict

RollOut = Callable[..., tuple[list[Rollout], list[Verdict]]]


def train(
    config: Config,
    *,
    problems: Sequence[Problem],
    engine: RolloutEngine,
    policy: Policy,
    roll_out: RollOut,
    evaluate: Callable[[int], Mapping[str, float]],
    save: Callable[[Position], object],
    tracker: Tracker,
    start: Position,
) -> None:
    """Train from `start` to config.steps. evaluate(step) gives metrics."""
    method = methods(config, problems)
    draws, coefficients = start.draws, start.schedule or method.begin
    sync(policy, engine, check=True)
    if start.step == 0:
        tracker.log(0, evaluate(0))

    for step in range(start.step + 1, config.steps + 1):
        clock = Clock(tracker)

        with clock("generate"):
            requests = method.take(first_draw=draws, step=step)
            draws += len(requests)
            rollouts, verdicts = roll_out(requests, clock.tell, clock("verify_wait"))
            rewards, valid = judge(rollouts, verdicts, config.rollout.truncation)

        with clock("score"):
            engine.sleep()
            tokens = tokenise(requests, rollouts)
            scored = engine_values(rollouts) if engine.exact_logprobs else policy.score(tokens)

        with clock("update"):
            groups = make_groups(tokens, scored, rewards, valid)
            advantages = method.estimate(groups, coefficients)
            of_tokens = method.spread(advantages, groups, tokens, scored, rollouts)
            batches = method.cut(tokens, scored, of_tokens, groups)
            updates = [policy.update(part, method.loss) for part in batches * config.optim.epochs]

        metrics = rollout_metrics(groups, advantages, tokens, scored, rollouts, verdicts)
        metrics |= coefficient_metrics(config.advantage.params, coefficients)
        coefficients = method.move(coefficients, observe(step, config.steps, groups, metrics))
        if due(step, config.tracking.logprob_gain_every, config.steps):
            with clock("gain"):
                metrics |= logprob_gain(policy, tokens, scored, rewards)

        with clock("sync"):
            sync(policy, engine, check=due(step - start.step, config.rollout.sync_check_every, 1))

        if due(step, config.eval.every, config.steps):
            with clock("evaluate"):
                metrics |= evaluate(step)
        tracker.log(step, metrics | update_metrics(updates, clock.metrics(), len(tokens.targets)))
        if step == 1 or due(step, config.tracking.rollouts_every, config.steps):
            rows = sample_rows(requests, rollouts, verdicts)
            tracker.rollouts(step, with_values(rows, rewards, valid, advantages))
        if due(step, config.checkpoint.every, config.steps):
            tracker.phase("save")
            save(Position(step=step, draws=draws, schedule=coefficients))


def judge(
    rollouts: Sequence[Rollout], verdicts: Sequence[Verdict], truncation: str
) -> tuple[Tensor, Tensor]:
    """rewards (R,) and valid (R,) under a truncation setting.

    score: the verdict on the text as it is; zero: a truncated response earns 0; mask: it leaves
    its group and the loss.
    """
    rewards = torch.tensor([verdict.reward for verdict in verdicts], dtype=torch.float64)
    truncated = torch.tensor([rollout.truncated for rollout in rollouts])
    if truncation == "score":
        return rewards, torch.ones_like(truncated)
    rewards = rewards.masked_fill(truncated, 0)
    return rewards, ~truncated if truncation == "mask" else torch.ones_like(truncated)


def with_values(
    rows: Iterable[Mapping[str, Any]], rewards: Tensor, valid: Tensor, advantages: Tensor
) -> Iterator[dict[str, Any]]:
    """Rows to read, with what training made of each: all (R,)."""
    made = zip(rewards.tolist(), valid.tolist(), advantages.tolist(), strict=True)
    for row, (reward, kept, advantage) in zip(rows, made, strict=True):
        yield {**row, "reward": reward, "valid": kept, "advantage": advantage}


def sync(policy: Policy, engine: RolloutEngine, *, check: bool) -> None:
    """Make room for the engine and hand it the policy's weights; `check` compares what arrived,
    tensor by tensor."""
    policy.sleep()
    engine.load_weights(policy.named_weights())
    if not check:
        return
    for name, tensor in policy.named_weights():
        sent = fingerprint(tensor.to(engine.weight_dtype))
        arrived = engine.fingerprint([name])[name]
        if not math.isclose(sent, arrived, rel_tol=1e-9, abs_tol=1e-9):
            raise RuntimeError(
                f"weight sync failed: {name} is {sent} in the policy and {arrived} in the engine"
            )


def due(step: int, every: int, also: int) -> bool:
    """On each multiple of `every` and at step `also`; never when `every` is 0."""
    return every > 0 and (step % every == 0 or step == also)
