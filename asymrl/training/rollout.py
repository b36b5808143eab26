"""The rollout stage: generate responses, verify each as it finishes, score them, turn verdicts into
rewards.

Uses engines and verifiers only through their protocols. Training and evaluation share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from asymrl.algo.batch import engine_logprobs, engine_values, make_groups, select_rows, tokenise
from asymrl.engines.distributed import World
from asymrl.engines.policy import Policy
from asymrl.engines.rollout import RolloutEngine, StopRequested, never
from asymrl.errors import UserError
from asymrl.training.algorithm import Algorithm
from asymrl.types import (
    Experience,
    Generated,
    Request,
    Rollout,
    RolloutGroups,
    Sampling,
    Scored,
    Tokens,
    Verdict,
)
from asymrl.verifiers import Verifier

Progress = Callable[[int, int], None]  # (done, total)


def generate_and_verify(
    requests: Sequence[Request],
    progress: Progress = lambda done, total: None,
    waiting: AbstractContextManager[None] = nullcontext(),  # noqa: B008, it has no state
    *,
    engine: RolloutEngine,
    verifier: Verifier,
    sampling: Sampling,
    world: World,
    stop_requested: StopRequested = never,
) -> tuple[list[Rollout], list[Verdict]]:
    """All rollouts of `requests` with their verdicts, sorted by (draw, sample), on every rank.

    Each rank generates its share of the requests and reports its own progress; a response goes to
    the verifier as soon as it is finished. Sorting makes later stages independent of the order in
    which responses finish. `waiting` is a context manager around the wait for the last verdicts.
    Once stop_requested() is true, generation and verification end and the results are incomplete.
    """
    problems = {request.draw: request.problem for request in requests}
    share = world.share(requests)
    total = sum(request.samples for request in share)
    pending = []
    # the ranks behind one tensor-parallel engine must generate in lockstep
    stop = stop_requested if world.tensor_parallel == 1 else never
    for rollout in engine.generate(share, sampling, stop):
        if world.leads:
            problem = problems[rollout.draw]
            verdict = verifier.submit(
                problem.gold, rollout.text, prompt=problem.prompt_text, row=problem.row
            )
            pending.append((rollout, verdict))
            progress(len(pending), total)
        if stop():
            break
    with waiting:
        verified = []
        for rollout, verdict in pending:
            if stop_requested():
                break
            try:
                verified.append((rollout, verdict.result()))
            except UserError as error:
                problem = problems[rollout.draw].id
                raise UserError(f"{error} (problem {problem})") from None
            progress(len(pending), total)  # each verdict counts as progress for the watchdog
    pairs = [pair for rank_pairs in world.gather(verified) for pair in rank_pairs]
    pairs.sort(key=lambda pair: (pair[0].draw, pair[0].sample))
    return [rollout for rollout, _ in pairs], [verdict for _, verdict in pairs]


def score_rollouts(
    tokens: Tokens,
    rollouts: Sequence[Rollout],
    engine: RolloutEngine,
    policy: Policy,
    known: Scored | None = None,
    rows: Tensor | None = None,
) -> Scored:
    """Log-probs and entropy of all response tokens under the policy that generated them: the
    engine's own if they are exact, else by a score pass.

    known: those of the first rows, which an earlier policy generated; they are used as they are.
    rows (R,) bool: the only rows to score. The others keep the engine's log-probs, and their
    entropy is nan.
    """
    if engine.exact_logprobs:
        logprobs, entropy = engine_values(rollouts)
    else:
        new = torch.ones(len(rollouts), dtype=torch.bool) if rows is None else rows.clone()
        if known:
            new[: int(tokens.row[len(known[0])])] = False
        logprobs = engine_logprobs(rollouts)
        entropy = torch.full_like(logprobs, torch.nan)
        selection, selected = select_rows(tokens, new)
        if selection.sequences:
            logprobs[selected], entropy[selected] = policy.score(selection)
    for values, earlier in zip((logprobs, entropy), known or (), strict=False):
        values[: len(earlier)] = earlier
    return logprobs, entropy


def rows_with_advantage(
    groups: RolloutGroups,
    tokens: Tokens,
    truncation: str,
    algorithm: Algorithm,
    schedule: Mapping[str, float],
) -> Tensor:
    """(R,) bool: the rows of groups in which a rollout has an advantage; all rows if there is none.
    Estimators that read log-probs get the engine's."""
    rewards, valid = rewards_and_mask(groups.rollouts, groups.verdicts, truncation)
    logprobs = engine_logprobs(groups.rollouts)
    unscored = make_groups(tokens, (logprobs, logprobs), rewards, valid)
    advantages = algorithm.advantages(unscored, schedule).reshape(unscored.rewards.shape)
    is_live = (advantages != 0).any(1)
    return is_live[tokens.group] | ~is_live.any()


def score_leftovers(
    generated: Generated | None, engine: RolloutEngine, policy: Policy
) -> Generated | None:
    """With the scores of the leftovers, if there are any, before an update changes the policy."""
    groups = generated and generated.leftovers
    if not generated or not groups:
        return generated
    tokens = tokenise(groups.requests, groups.rollouts)
    scored = score_rollouts(tokens, groups.rollouts, engine, policy)
    return replace(generated, leftovers=replace(groups, scored=scored))


def rewards_and_mask(
    rollouts: Sequence[Rollout], verdicts: Sequence[Verdict], truncation: str
) -> tuple[Tensor, Tensor]:
    """rewards (R,) float64 and valid (R,) bool under `rollout.truncation`.

    score: a truncated response keeps its verdict's reward. zero: it earns 0. mask: it earns 0 and
    leaves its group and the loss.
    """
    rewards = torch.tensor([verdict.reward for verdict in verdicts], dtype=torch.float64)
    truncated = torch.tensor([rollout.truncated for rollout in rollouts])
    if truncation == "score":
        return rewards, torch.ones_like(truncated)
    rewards = rewards.masked_fill(truncated, 0)
    return rewards, ~truncated if truncation == "mask" else torch.ones_like(truncated)


def build_experience(
    requests: Sequence[Request],
    rollouts: Sequence[Rollout],
    verdicts: Sequence[Verdict],
    *,
    tokens: Tokens,
    scored: Scored,
    truncation: str,
    algorithm: Algorithm,
    schedule: Mapping[str, float],
    reference_logprobs: Tensor | None = None,
    generated: Generated | None = None,
) -> Experience:
    """Rewards, groups and advantages of a scored rollout batch. generated: None if that is all that
    the step generated."""
    rewards, valid = rewards_and_mask(rollouts, verdicts, truncation)
    groups = make_groups(tokens, scored, rewards, valid)
    return Experience(
        requests=requests,
        rollouts=rollouts,
        verdicts=verdicts,
        rewards=rewards,
        valid=valid,
        tokens=tokens,
        scored=scored,
        groups=groups,
        advantages=algorithm.advantages(groups, schedule),
        reference_logprobs=reference_logprobs,
        generated=generated or Generated(draws=len(requests), tokens=len(tokens.targets)),
    )


def sample_rows(
    requests: Sequence[Request], rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]
) -> Iterator[dict[str, Any]]:
    """One readable row per rollout: the format of the files in rollouts/ and eval/."""
    problems = {request.draw: request.problem for request in requests}
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        problem = problems[rollout.draw]
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


def experience_rows(experience: Experience) -> Iterator[dict[str, Any]]:
    """sample_rows, with the reward and advantage that training used for each rollout."""
    rows = sample_rows(experience.requests, experience.rollouts, experience.verdicts)
    columns = (experience.rewards, experience.valid, experience.advantages)
    values = zip(*(column.tolist() for column in columns), strict=True)
    for row, (reward, valid, advantage) in zip(rows, values, strict=True):
        yield {**row, "reward": reward, "valid": valid, "advantage": advantage}
