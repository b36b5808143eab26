"""What a config chooses reaches the mathematics: coefficients, reweighting, observations."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asymrl.algo.diagnostics import BINS, accuracy_bins, by_accuracy, channel_mass, pressure
from asymrl.config.load import load_config
from asymrl.engines.micro_batches import loss_inputs
from asymrl.training.algorithm import (
    build_algorithm,
    penalty_metrics,
    schedule_inputs,
    schedule_metrics,
)
from asymrl.types import Experience, Groups
from tests.helpers.batches import experience_of, requests_and_rollouts
from tests.helpers.runs import comparable, metrics, run

PARAMS = {"beta_pos": 0.9, "beta_neg": 0.4}
PHR = "reweight={name: quadrant, which: phr}"


def groups_of(rewards: list[list[float]], valid: list[list[bool]] | None = None) -> Groups:
    given = torch.tensor(rewards, dtype=torch.float64)
    return Groups(
        rewards=given,
        valid=torch.tensor(valid) if valid else torch.ones_like(given, dtype=torch.bool),
        lengths=torch.ones_like(given, dtype=torch.long),
        mean_logprobs=-torch.ones_like(given),
    )


def test_an_estimator_takes_the_betas_of_the_step() -> None:
    algorithm = build_algorithm(load_config("pocket_asym"), ())
    assert algorithm.init_schedule == PARAMS
    groups = groups_of([[1, 0, 0, 0]])
    first = algorithm.advantages(groups, algorithm.init_schedule)[0].item()
    assert first == pytest.approx(3**0.9)
    later = {"beta_pos": 1.0, "beta_neg": 0.0, "kappa": 0.1}
    assert algorithm.advantages(groups, later).tolist() == pytest.approx([3.0, -1.0, -1.0, -1.0])


def test_a_schedule_leaves_an_estimator_without_betas_alone() -> None:
    config = load_config("pocket_asym", ["advantage.name=grpo_sample_std"])
    algorithm = build_algorithm(config, ())
    assert algorithm.init_schedule == {}
    first = algorithm.advantages(groups_of([[1, 0]]), {})[0].item()
    assert first == pytest.approx(0.5**0.5, rel=1e-5)


def experience_under(algorithm, lengths, scored, rewards, valid=None) -> Experience:
    """A rollout batch with the advantages of the algorithm's first step."""
    return experience_of(
        *requests_and_rollouts(lengths),
        scored,
        rewards,
        valid,
        lambda groups: algorithm.advantages(groups, algorithm.init_schedule),
    )


def test_a_reweighter_sees_every_token_with_its_row_and_group() -> None:
    scored = torch.zeros(7), torch.tensor([1.0, 5, 3, 9, 1, 1, 8])
    high = build_algorithm(load_config("pocket_grpo", [PHR]), ())
    experience = experience_under(high, [[2, 1], [1, 3]], scored, [1.0, 0, 0, 1])
    # group means are 3 and 19/4; of the correct rows' tokens 5 and 8 are above them
    assert high.to_token_advantages(experience).tolist() == [0, 1, 0, 0, 0, 0, 1]
    low = build_algorithm(load_config("pocket_grpo", [PHR.replace("phr", "plr")]), ())
    # with row means instead of group means only these would be the same
    assert low.to_token_advantages(experience).tolist() == [1, 0, 0, 0, 1, 1, 0]


def test_a_masked_row_is_in_no_mean_of_a_reweighter() -> None:
    algorithm = build_algorithm(load_config("pocket_grpo", [PHR]), ())
    scored = torch.zeros(3), torch.tensor([2.0, 1.0, 90.0])
    experience = experience_under(algorithm, [[1, 1, 1]], scored, [1.0, 0, 0], [True, True, False])
    # 2 is above the mean of 2 and 1, but not above the mean of all three
    assert algorithm.to_token_advantages(experience).tolist() == [1, 0, 0]


def test_importance_weights_come_after_the_reweighter() -> None:
    """A quadrant's polarity and an entropy-aware bound are those of the advantage alone."""
    config = load_config(
        "pocket_grpo",
        ["reweight={name: entropy_aware, alpha: 1.0, phi: 1.0}", "loss.importance_sampling=token"],
    )
    logprobs = torch.tensor([-1.0, -2.0, -0.5])  # the engine's are 0 everywhere
    algorithm = build_algorithm(config, ())
    plain = build_algorithm(load_config("pocket_grpo", config_of(config)), ())
    scored = logprobs, torch.tensor([1.0, 2.0, 4.0])
    experience = experience_under(algorithm, [[2, 1]], scored, [1.0, 0])
    weighted = plain.to_token_advantages(experience) * logprobs.exp()
    assert torch.allclose(algorithm.to_token_advantages(experience), weighted)


CONTROL = "loss.entropy_control={target: 0.5, step: 0.01, max: 0.02}"


def test_a_controlled_bonus_rises_below_the_target_and_falls_above_it() -> None:
    algorithm = build_algorithm(load_config("pocket_asym", [CONTROL, "schedule.name=constant"]), ())
    state, bonuses = algorithm.init_schedule, []
    assert state == PARAMS | {"entropy_bonus": 0.0}
    for entropy in (0.4, 0.4, 0.4, 0.5, 0.6, 0.6):
        groups = groups_of([[1, 0]])
        seen = {"diag/kappa": 0.1, "policy/entropy": entropy, "reward/mean": 0.5}
        stats = schedule_inputs(1, 9, groups, seen)
        state = algorithm.update_schedule(state, stats)
        bonuses.append(round(state["entropy_bonus"], 6))
    assert bonuses == [0.01, 0.02, 0.02, 0.01, 0.0, 0.0]
    assert {key: state[key] for key in PARAMS} == PARAMS


@pytest.mark.parametrize(("entropy", "bonus"), [(0.4, 0.01), (0.6, 0.0)])
def test_a_controlled_bonus_applies_only_below_the_target(entropy: float, bonus: float) -> None:
    algorithm = build_algorithm(load_config("pocket_asym", [CONTROL]), ())
    scored = torch.zeros(4), torch.full((4,), entropy)
    experience = experience_under(algorithm, [[2, 2]], scored, [1.0, 0], [True, False])
    schedule = PARAMS | {"entropy_bonus": 0.01}
    (batch,), loss = algorithm.to_minibatches(experience, torch.zeros(4), schedule)
    assert batch.has_gradient.tolist() == [bonus > 0, False]
    tokens = torch.arange(4)
    inputs = loss_inputs(batch, tokens, batch.old_logprobs, torch.tensor([3.0, 5.0, 7.0, 7.0]))
    assert loss(inputs).loss.item() == pytest.approx(-bonus * 4)


def test_a_kl_penalty_reaches_every_valid_row_with_the_reference_of_its_tokens() -> None:
    overrides = ["loss.kl_coef=0.5", "loss.kl_estimator=k2"]
    algorithm = build_algorithm(load_config("pocket_asym", overrides), ())
    scored = torch.zeros(3), torch.ones(3)
    experience = experience_under(algorithm, [[1, 2]], scored, [1.0, 1.0])
    experience = replace(experience, reference_logprobs=torch.tensor([-1.0, -2.0, -3.0]))
    (batch,), loss = algorithm.to_minibatches(experience, torch.zeros(3), PARAMS)
    assert batch.has_gradient.all()
    inputs = loss_inputs(batch, torch.tensor([1, 2]), torch.zeros(2), torch.ones(2))
    assert loss(inputs).loss.item() == pytest.approx(0.5 * (4 / 2 + 9 / 2) / 3)


def config_of(config) -> list[str]:
    """The same reweighter without importance weights."""
    return [f"reweight={{name: {config.reweight.name}, alpha: 1.0, phi: 1.0}}"]


def test_a_penalty_is_subtracted_after_the_estimator_and_reaches_unmixed_groups() -> None:
    settings = ["rollout.max_tokens=10", "rollout.overlong={buffer: 4, penalty: 2.0}"]
    algorithm = build_algorithm(load_config("pocket_grpo", settings), ())
    scored = torch.zeros(31), torch.ones(31)
    experience = experience_under(algorithm, [[8, 10], [6, 7]], scored, [1.0, 0, 1, 1])
    # p = 1/2 gives +1 and -1, p = 1 gives 0; the penalties are 2 x (2/4, 4/4, 0/4, 1/4)
    assert experience.advantages.tolist() == pytest.approx([0.0, -3.0, 0.0, -0.5])
    assert penalty_metrics(algorithm, experience.groups) == {"rollout/overlong_penalty": 3.5 / 4}
    token_advantages, schedule = algorithm.to_token_advantages(experience), algorithm.init_schedule
    (batch, *_), _ = algorithm.to_minibatches(experience, token_advantages, schedule)
    assert batch.has_gradient.tolist() == [False, True, False, True]
    assert penalty_metrics(build_algorithm(load_config("pocket_grpo"), ()), experience.groups) == {}


def test_a_penalty_is_a_metric_of_a_run(config_file: Path, tmp_path: Path) -> None:
    """max_tokens is 6, so with this buffer every response longer than one token pays."""
    overlong = "rollout.overlong={buffer: 5, penalty: 0.5}"
    (row,) = metrics(run(config_file, tmp_path / "run", overlong, "steps=1"))[1:]
    mean_excess = row["rollout/length_mean"] - 1
    assert row["rollout/overlong_penalty"] == pytest.approx(0.5 * mean_excess / 5)


def test_observations_leave_out_groups_without_a_valid_rollout() -> None:
    groups = groups_of(
        [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]],
        [[True, True, False, False], [False] * 4, [True] * 4],
    )
    measured = {"diag/kappa": math.nan, "policy/entropy": 0.5, "reward/mean": 0.25}
    seen = schedule_inputs(3, 9, groups, measured)
    assert (seen.step, seen.steps, seen.entropy, seen.solved) == (3, 9, 0.5, 0.25)
    assert seen.accuracy == (0.5, 0.5) and math.isnan(seen.kappa)


def test_metrics_state_the_betas_in_use_and_what_a_schedule_keeps() -> None:
    assert schedule_metrics(PARAMS, {"beta_pos": 0.2, "beta_neg": 0.1, "kappa": 3.0}) == {
        "advantage/beta_pos": 0.2,
        "advantage/beta_neg": 0.1,
        "schedule/kappa": 3.0,
    }


def test_cells_are_sixteenths_of_the_accuracy_over_valid_rollouts() -> None:
    groups = groups_of(
        [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]],
        [[True] * 4, [True] * 4, [True, False, True, True]],
    )
    third = round(BINS / 3)
    assert accuracy_bins(groups).tolist() == [
        [17 + 4, 4, 4, 4],
        [17 + 16] * 4,
        [17 + third, third, third, third],
    ]


def test_a_mixed_group_is_never_counted_as_all_or_none_solved() -> None:
    one_of_40 = groups_of([[1.0] + [0.0] * 39, [1.0] * 39 + [0.0]])
    assert set(accuracy_bins(one_of_40)[0].tolist()) == {1, 17 + 1}
    assert set(accuracy_bins(one_of_40)[1].tolist()) == {15, 17 + 15}


def test_defined_pressures_add_up_to_the_channel_masses() -> None:
    groups = groups_of(
        [[1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
        [[True] * 4, [True, True, False, True], [True] * 4, [False] * 4],
    )
    advantages = torch.arange(1.0, 17).reshape(4, 4).double() * torch.where(
        groups.rewards == 1, 1, -1
    )
    found = by_accuracy(groups, advantages)
    fractions = {name: x for name, x in found.items() if name.startswith("groups/")}
    assert fractions == pytest.approx(
        {"groups/accuracy/0.25": 2 / 3, "groups/accuracy/0.6875": 1 / 3}
    )
    masses = channel_mass(groups, advantages)
    for channel in ("positive", "negative"):
        parts = [x for name, x in found.items() if name.startswith(f"pressure/{channel}_defined/")]
        assert sum(parts) == pytest.approx(masses[f"diag/mass_{channel}"])
    assert found["pressure/positive_defined/0.25"] == pytest.approx((1 + 9) / 4 / 3)


def test_measured_pressure_is_named_by_channel_and_accuracy() -> None:
    by_accuracy_bin = [0.0] * (2 * (BINS + 1))
    by_accuracy_bin[2], by_accuracy_bin[17 + 2], by_accuracy_bin[17 + 14] = 1.0, 2.0, 4.0
    assert pressure(by_accuracy_bin) == {
        "diag/gradient_negative": 1.0,
        "pressure/negative/0.125": 1.0,
        "diag/gradient_positive": 6.0,
        "pressure/positive/0.125": 2.0,
        "pressure/positive/0.875": 4.0,
    }


def test_a_schedule_moves_the_betas_and_goes_on_where_it_was(
    config_file: Path, tmp_path: Path
) -> None:
    linear = (
        "schedule={name: linear, end_beta_pos: 0.9, end_beta_neg: 0.1}",
        "advantage.beta_pos=0.5",
    )
    whole = run(config_file, tmp_path / "whole", *linear)
    betas = [row["advantage/beta_pos"] for row in metrics(whole)[1:]]
    assert betas == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    for later in (4, 5):
        shutil.rmtree(whole / "checkpoints" / f"step-{later:06d}")
    (whole / "checkpoints" / "latest").unlink()
    (whole / "checkpoints" / "latest").symlink_to("step-000003")
    before = comparable(whole)
    run(config_file, whole, *linear)
    assert comparable(whole) == before
    branch = ["--resume", str(whole / "checkpoints" / "step-000003"), "advantage.beta_pos=0.5"]
    other = run(config_file, tmp_path / "other", *branch)
    assert [row["advantage/beta_pos"] for row in metrics(other)] == [0.5, 0.5]


def test_each_epoch_passes_over_every_minibatch_again(config_file: Path, tmp_path: Path) -> None:
    once = run(config_file, tmp_path / "once", "steps=1")
    twice = run(config_file, tmp_path / "twice", "steps=1", "optim.epochs=2")
    updates = [metrics(folder)[1]["optim/updates"] for folder in (once, twice)]
    assert updates[1] == 2 * updates[0] > 0


def test_a_reweighter_changes_what_is_learned(
    config_file: Path, finished: Path, tmp_path: Path
) -> None:
    quadrant = run(
        config_file, tmp_path / "phr", "reweight={name: quadrant, which: phr}", "steps=1"
    )
    (mine, theirs) = metrics(quadrant)[1], metrics(finished)[1]
    assert mine["reward/mean"] == theirs["reward/mean"]  # the same rollouts
    assert mine["diag/mass_negative"] == theirs["diag/mass_negative"] > 0
    assert mine["diag/gradient_negative"] == 0 < mine["diag/gradient_positive"]
    assert mine["diag/gradient_positive"] < theirs["diag/gradient_positive"]
