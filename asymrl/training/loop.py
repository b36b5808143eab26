"""The RLVR training loop. Each step:

    sample prompts -> generate responses, verify each as it finishes -> rewards
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

from asymrl.algo.batch import engine_values, tokenise
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
    schedule_inputs,
    schedule_metrics,
)
from asymrl.training.metrics import measure_logprob_gain, rollout_metrics, update_metrics
from asymrl.training.rollout import build_experience, experience_rows
from asymrl.types import (
    Batch,
    Experience,
    Position,
    Problem,
    Rollout,
    Stopped,
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
        scored_tokens = [experience.tokens] * passes
        metrics |= utilisation(policy.work, scored_tokens, batches, clock.metrics())
        metrics |= callbacks.memory.metrics()
        if is_due(step, config.eval.every, config.steps):
            with clock("evaluate"):
                metrics |= callbacks.evaluate(step)
        response_tokens = len(experience.tokens.targets)
        tracker.log(step, metrics | update_metrics(updates, clock.metrics(), response_tokens))
        skipped = skipped_in_a_row(skipped, updates)
        if step == 1 or skipped or is_due(step, config.tracking.rollouts_every, config.steps):
            tracker.rollouts(step, experience_rows(experience))
        stop_if_diverged(step, skipped, updates, most=config.optim.max_skipped)

        position = Position(
            step=step,
            draws=position.draws + len(experience.requests),
            schedule=schedule,
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

    If the run is asked to stop during generation, returns the reason instead.
    """
    with clock("generate"):
        requests = algorithm.sample_prompts(first_draw=position.draws, step=position.step + 1)
        rollouts, verdicts = generate(requests, clock.report, clock("verify_wait"))
    if stopped := stop({}):
        return stopped
    with clock("sleep"):
        engine.sleep()
    with clock("score"):
        tokens = tokenise(requests, rollouts)
        scored = engine_values(rollouts) if engine.exact_logprobs else policy.score(tokens)
        reference = policy.score_reference(tokens) if config.loss.kl_coef else None
    with clock("update"):
        return build_experience(
            requests,
            rollouts,
            verdicts,
            tokens=tokens,
            scored=scored,
            truncation=config.rollout.truncation,
            algorithm=algorithm,
            schedule=position.schedule,
            reference_logprobs=reference,
        )


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
