"""The RLVR training loop. Each step:

    sample prompts -> generate responses, verify each as it finishes -> rewards
       (with dynamic sampling: again, until enough groups have both rewards)
    -> score: log-probs and entropy of the generating policy, for a KL penalty also of the reference
    -> advantages
    -> mini-batches, one optimizer step each -> send the new weights to the engine
    -> evaluate, log, save, stop early: each when due

The loop receives everything it uses as arguments: it depends on no particular engine, framework or
file. Every rank runs the loop. Each rank generates and verifies its share of the prompts, all ranks
exchange all rollouts, and the policy gives each rank its share of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from asymrl.algo.batch import tokenise
from asymrl.config.schema import Config
from asymrl.engines.flops import utilisation
from asymrl.engines.gpu_memory import MemoryMeter
from asymrl.engines.policy import Policy
from asymrl.engines.rollout import RolloutEngine, check_weights_arrived
from asymrl.run.alerts import skipped_in_a_row, stop_if_diverged
from asymrl.run.tracking import Clock, Tracker
from asymrl.training.algorithm import (
    Algorithm,
    build_algorithm,
    penalty_metrics,
    schedule_inputs,
    schedule_metrics,
)
from asymrl.training.dynamic_sampling import generate_batch
from asymrl.training.metrics import (
    measure_logprob_gain,
    rollout_metrics,
    scored_rows,
    update_metrics,
)
from asymrl.training.rollout import (
    build_experience,
    experience_rows,
    rows_with_advantage,
    score_leftovers,
    score_rollouts,
)
from asymrl.types import (
    Batch,
    Experience,
    Position,
    Problem,
    Request,
    Rollout,
    RolloutGroups,
    Stopped,
    Tokens,
    UpdateStats,
    Verdict,
    frozen,
)

Generate = Callable[..., tuple[list[Rollout], list[Verdict]]]
"""training.rollout.generate_and_verify with engine, verifier, sampling and world bound."""


@frozen
class Callbacks:
    """What the loop calls in addition to the engine and the policy.

    evaluate(step) -> metrics. save(position) writes a checkpoint. stop(metrics) -> the reason to
    end the run now, or None. tracker receives phases, metrics and rollouts. memory measures the
    GPUs in each phase.
    """

    evaluate: Callable[[int], Mapping[str, float]]
    save: Callable[[Position], object]
    stop: Callable[[Mapping[str, float]], Stopped | None]
    tracker: Tracker
    memory: MemoryMeter


def train(
    config: Config,
    problems: Sequence[Problem],
    engine: RolloutEngine,
    policy: Policy,
    generate: Generate,
    callbacks: Callbacks,
    start: Position,
) -> Stopped | None:
    """Train from `start` to config.steps. Returns why the run stopped early, or None.

    The last finished step is saved before it returns.
    """
    algorithm, tracker = build_algorithm(config, problems), callbacks.tracker
    position = replace(start, schedule=start.schedule or algorithm.init_schedule)
    saved_step, skipped, metrics, stopped = start.step, 0, {}, None
    tracker.phase("sync")
    sync_weights(policy, engine, check=True)
    if start.step == 0:
        metrics = dict(callbacks.evaluate(0))
        tracker.log(0, metrics)

    while position.step < config.steps and not (stopped := callbacks.stop(metrics)):
        step, clock = position.step + 1, Clock(tracker, callbacks.memory)
        experience = collect_experience(
            config, algorithm, position, engine, policy, generate, callbacks.stop, clock
        )
        if isinstance(experience, Stopped):
            stopped = experience  # nothing has changed yet: a resumed run repeats this step
            break
        with clock("update"):
            batches, updates = update(
                algorithm, policy, experience, position.schedule, config.optim.epochs
            )

        metrics = rollout_metrics(experience)
        metrics |= penalty_metrics(algorithm, experience.groups)
        metrics |= schedule_metrics(config.advantage.params, position.schedule)
        stats = schedule_inputs(step, config.steps, experience.groups, metrics)
        schedule = algorithm.update_schedule(position.schedule, stats)
        if is_due(step, config.tracking.logprob_gain_every, config.steps):
            with clock("gain"):
                tokens, scored = experience.tokens, experience.scored
                metrics |= measure_logprob_gain(policy, tokens, scored, experience.rewards)

        with clock("sync"):
            check = is_due(step - start.step, config.rollout.sync_check_every, 1)
            sync_weights(policy, engine, check=check)

        passes = (not engine.exact_logprobs) + (experience.reference_logprobs is not None)
        scored_tokens = [scored_rows(experience)] * passes
        metrics |= utilisation(policy.work, scored_tokens, batches, clock.metrics())
        metrics |= callbacks.memory.metrics()
        if is_due(step, config.eval.every, config.steps):
            with clock("evaluate"):
                metrics |= callbacks.evaluate(step)
        num_tokens = experience.generated.tokens, len(experience.tokens.targets)
        tracker.log(step, metrics | update_metrics(updates, clock.metrics(), *num_tokens))
        skipped = skipped_in_a_row(skipped, updates)
        if step == 1 or skipped or is_due(step, config.tracking.rollouts_every, config.steps):
            tracker.rollouts(step, experience_rows(experience))
        stop_if_diverged(step, skipped, updates, most=config.optim.max_skipped)

        position = Position(
            step=step,
            draws=position.draws + experience.generated.draws,
            schedule=schedule,
            leftovers=experience.generated.leftovers,
        )
        del experience, batches  # large, and not needed while saving and generating
        if is_due(step, config.checkpoint.every, config.steps) and not skipped:
            saved_step = save(position, callbacks)
    if saved_step < position.step:
        save(position, callbacks)
    return stopped


def collect_experience(
    config: Config,
    algorithm: Algorithm,
    position: Position,
    engine: RolloutEngine,
    policy: Policy,
    generate: Generate,
    stop: Callable[[Mapping[str, float]], Stopped | None],
    clock: Clock,
) -> Experience | Stopped:
    """One rollout batch: sampled, verified, scored, with advantages. Leaves the engine asleep.

    If the run is asked to stop during generation, or dynamic sampling finds too few mixed groups,
    returns the reason instead.
    """
    sample = algorithm.sample_prompts
    draw = partial(draw_groups, sample, generate, stop, clock, step=position.step + 1)
    sampled = generate_batch(draw, config.rollout, position)
    if isinstance(sampled, Stopped):
        return sampled
    batch, generated = sampled
    with clock("sleep"):
        engine.sleep()
    with clock("score"):
        known = position.leftovers and position.leftovers.scored
        tokens = tokenise(batch.requests, batch.rollouts)
        rows = rows_to_score(config, algorithm, position, batch, tokens)
        scored = score_rollouts(tokens, batch.rollouts, engine, policy, known, rows)
        generated = score_leftovers(generated, engine, policy)
        reference = policy.score_reference(tokens) if config.loss.kl_coef else None
    with clock("update"):
        return build_experience(
            batch.requests,
            batch.rollouts,
            batch.verdicts,
            tokens=tokens,
            scored=scored,
            truncation=config.rollout.truncation,
            algorithm=algorithm,
            schedule=position.schedule,
            generated=generated,
            reference_logprobs=reference,
        )


def rows_to_score(
    config: Config, algorithm: Algorithm, position: Position, batch: RolloutGroups, tokens: Tokens
) -> Tensor | None:
    """The rows (R,) bool that a step scores under policy.score_all_rows; None: all of them."""
    due = is_due(position.step + 1, config.tracking.logprob_gain_every, config.steps)
    if config.policy.score_all_rows or due:
        return None
    return rows_with_advantage(
        batch, tokens, config.rollout.truncation, algorithm, position.schedule
    )


def draw_groups(
    sample_prompts: Callable[..., list[Request]],
    generate: Generate,
    stop: Callable[[Mapping[str, float]], Stopped | None],
    clock: Clock,
    *,
    step: int,
    first_draw: int,
    count: int,
) -> RolloutGroups | Stopped:
    """Sample the next prompts, generate and verify: one round of generation, the same on all ranks.

    If the run is asked to stop meanwhile, rollouts are missing; returns the reason instead.
    """
    with clock("generate"):
        requests = sample_prompts(first_draw=first_draw, step=step, count=count)
        rollouts, verdicts = generate(requests, clock.report, clock("verify_wait"))
    if stopped := stop({}):
        return stopped
    assert len(rollouts) == sum(request.samples for request in requests), "whole groups"
    return RolloutGroups(requests=requests, rollouts=rollouts, verdicts=verdicts)


def update(
    algorithm: Algorithm,
    policy: Policy,
    experience: Experience,
    schedule: Mapping[str, float],
    epochs: int,
) -> tuple[list[Batch], list[UpdateStats]]:
    """One optimizer step per mini-batch, `epochs` times over. Returns the mini-batches in order
    with the statistics of each step."""
    token_advantages = algorithm.to_token_advantages(experience)
    minibatches, loss = algorithm.to_minibatches(experience, token_advantages, schedule)
    batches = minibatches * epochs
    return batches, [policy.update(batch, loss) for batch in batches]


def sync_weights(policy: Policy, engine: RolloutEngine, *, check: bool) -> None:
    """Free the policy's memory and load its weights into the engine.

    check: compare the fingerprint of every tensor in the engine with the policy's.
    """
    policy.sleep()
    engine.load_weights(policy.named_weights())
    if check:
        check_weights_arrived(engine, policy.named_weights())


def save(position: Position, callbacks: Callbacks) -> int:
    """Save a checkpoint; returns its step."""
    callbacks.tracker.phase("save")
    callbacks.save(position)
    return position.step


def is_due(step: int, every: int, also: int) -> bool:
    """True at each multiple of `every` and at step `also`. Never if `every` is 0."""
    return every > 0 and (step % every == 0 or step == also)
