"""Benchmarks: sample, verify, keep, count. Used by the loop and by eval.py.

Knows an engine and a verifier by their protocols; nothing of training. What the numbers are is
scores.py, where the samples lie samples.py.

The loop: rollouts, rewards, advantages, updates, in the order they happen.

take problems -> generate, verify as they finish -> rewards -> score -> advantages -> batch ->
update over mini-batches -> sync weights, checked -> maybe evaluate -> log -> maybe save
                            -> maybe stop before the end

All collaborators come in as arguments. The loop knows no engine, no framework and no file. Every
rank runs it: each generates and verifies its share of the prompts, all know all rollouts, and the
policy gives each its share of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from asymrl.engines.distributed import World
from asymrl.engines.rollout import RolloutEngine
from asymrl.types import (
    Request,
    Rollout,
    Sampling,
    Verdict,
)
from asymrl.verifiers import Verifier

Progress = Callable[[int, int], None]  # done, total


def generate_and_verify(
    requests: Sequence[Request],
    progress: Progress = lambda done, total: None,
    waiting: AbstractContextManager[None] = nullcontext(),  # noqa: B008
    *,
    engine: RolloutEngine,
    verifier: Verifier,
    sampling: Sampling,
    world: World,
    asked: Callable[[], object] = lambda: None,
) -> tuple[list[Rollout], list[Verdict]]:
    """Generate and verify; a response goes to the verifier as soon as it is finished.

    Each rank does its share of the requests (and tells its own progress); all get all results,
    sorted by (draw, sample), so that nothing after this depends on the order of finishing.
    `waiting` is entered when all is generated and verdicts are still to come. Where asked() gives a
    reason to stop, what there is by then is all.
    """
    golds = {request.draw: request.problem.gold for request in requests}
    mine = world.share(requests)
    total = sum(request.samples for request in mine)
    pending = []
    for rollout in engine.generate(mine, sampling):
        if world.leads:
            pending.append((rollout, verifier.submit(golds[rollout.draw], rollout.text)))
            progress(len(pending), total)
        if asked() and world.tensor_parallel == 1:  # the ranks of one engine go in lockstep
            break
    with waiting:
        judged = []
        for rollout, verdict in pending:
            judged.append((rollout, verdict.result()))
            progress(len(pending), total)  # a verdict is news
    everyone = [pair for part in world.gather(judged) for pair in part]
    everyone.sort(key=lambda pair: (pair[0].draw, pair[0].sample))
    return [rollout for rollout, _ in everyone], [verdict for _, verdict in everyone]


def sample_rows(
    requests: Sequence[Request], rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]
) -> Iterator[dict[str, Any]]:
    """One readable row a rollout: what rollouts/ and eval/ hold."""
    by_draw = {request.draw: request.problem for request in requests}
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        problem = by_draw[rollout.draw]
        yield {
            "draw": rollout.draw,
            "sample": rollout.sample,
            "problem_id": problem.id,
            "problem": problem.meta.get("problem", problem.prompt_text),
            "prompt": problem.prompt_text,
            "gold": problem.gold,
            "response": rollout.text,
            "answer": verdict.answer,
            "reason": verdict.reason,
            "reward": verdict.reward,
            "truncated": rollout.truncated,
            "tokens": len(rollout.token_ids),
        }


def rewards_and_mask(
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
