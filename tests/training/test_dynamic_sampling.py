"""Dynamic sampling: which groups enter a batch, what is left over, and that a resumed run has the
same ones."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import train
from asymrl import verifiers
from asymrl.algo.batch import tokenise
from asymrl.config.load import CONFIG_DIR, load_config
from asymrl.config.schema import RolloutConfig
from asymrl.engines import pretrained
from asymrl.engines.scripted import ScriptedEngine
from asymrl.errors import UserError
from asymrl.run import checkpoint
from asymrl.run.leftovers import FILES, read_leftovers, write_leftovers
from asymrl.training.dynamic_sampling import Draw, fill_batch, generate_batch, size_of_round
from asymrl.training.rollout import score_rollouts
from asymrl.training.setup import load_data
from asymrl.types import (
    Generated,
    Position,
    Problem,
    Request,
    Rollout,
    RolloutGroups,
    Stopped,
    Verdict,
)
from tests.helpers.engines import hf
from tests.helpers.policies import policy
from tests.helpers.runs import comparable, metrics, run, run_with, same_weights

GROUP = 2
EASY, MIXED, HARD = (True, True), (True, False), (False, False)


def settings(prompts: int, leftover: str = "drop", max_rounds: int = 10, **other: Any):
    return RolloutConfig.model_validate(
        {
            "prompts": prompts,
            "group_size": GROUP,
            "max_tokens": 9,
            "dynamic_sampling": {"leftover": leftover, "max_rounds": max_rounds},
            **other,
        }
    )


def group_of(draw: int, correct: Sequence[bool], truncated: bool) -> RolloutGroups:
    problem = Problem(id=str(draw), prompt_ids=(1, 2), prompt_text="", gold="", source="")
    rollouts = [
        Rollout(
            draw=draw,
            sample=sample,
            token_ids=(7,) * (1 + draw + sample),
            text=f"text {draw} {sample}",
            truncated=truncated and sample == 0,
            engine_logprobs=(-0.1,) * (1 + draw + sample),
            engine_entropy=None,
        )
        for sample in range(GROUP)
    ]
    return RolloutGroups(
        requests=[Request(problem=problem, draw=draw, samples=GROUP, seed=draw)],
        rollouts=rollouts,
        verdicts=[
            Verdict(reason="correct" if right else "wrong", answer=None, seconds=0.0)
            for right in correct
        ],
    )


def drawing(
    script: Callable[[int], Sequence[bool]], calls: list[tuple[int, int]], truncated: bool = False
) -> Draw:
    """Draws groups whose rollouts are correct as script(draw) says; notes (first_draw, count)."""

    def draw(*, first_draw: int, count: int) -> RolloutGroups:
        calls.append((first_draw, count))
        groups = [group_of(n, script(n), truncated) for n in range(first_draw, first_draw + count)]
        return RolloutGroups(
            requests=[request for group in groups for request in group.requests],
            rollouts=[rollout for group in groups for rollout in group.rollouts],
            verdicts=[verdict for group in groups for verdict in group.verdicts],
        )

    return draw


def filled(draw: Draw, rollout: RolloutConfig, position: Position) -> tuple[Any, Generated]:
    result = fill_batch(draw, rollout, position)
    assert not isinstance(result, Stopped)
    return result


def draws_of(groups: RolloutGroups | None, size: int = GROUP) -> list[int]:
    """After a check that every group is whole and beside its request."""
    if groups is None:
        return []
    draws = [request.draw for request in groups.requests]
    keys = [(rollout.draw, rollout.sample) for rollout in groups.rollouts]
    assert keys == [(draw, sample) for draw in draws for sample in range(size)]
    assert len(groups.verdicts) == len(keys)
    return draws


PATTERN = [MIXED, HARD, MIXED, EASY, HARD, MIXED, MIXED, MIXED]  # draws 0 to 7
PATTERN += [HARD, MIXED, EASY, HARD, MIXED, MIXED, MIXED]  # draws 8 to 14


@pytest.mark.parametrize(("leftover", "expected"), [("drop", []), ("keep", [7])])
def test_the_first_mixed_groups_enter_and_what_is_beyond_is_dropped_or_kept(
    leftover: str, expected: list[int]
) -> None:
    calls: list[tuple[int, int]] = []
    batch, generated = filled(
        drawing(PATTERN.__getitem__, calls), settings(4, leftover), Position(draws=0)
    )
    assert calls == [(0, 4), (4, 4)]  # 2 are missing: (2 + sqrt 2) / (1/2) = 6.8, at most 4
    assert draws_of(batch) == [0, 2, 5, 6] and draws_of(generated.leftovers) == expected
    assert generated.draws == 8 and generated.tokens == sum(2 * n + 3 for n in range(8))
    kept = len(expected)
    assert generated.metrics == pytest.approx(
        {
            "reward/mean": 7 / 16,
            "groups/all_solved": 1 / 8,
            "groups/none_solved": 2 / 8,
            "rollout/length_mean": (2 * 28 + 24) / 16,
            "rollout/truncated": 0,
            "verdict/correct": 7 / 16,
            "verdict/wrong": 9 / 16,
            **{f"verdict/{name}": 0 for name in ("no_answer", "unparseable", "timeout", "crashed")},
            "dynamic_sampling/mixed": 5 / 8,
            "dynamic_sampling/rounds": 2,
            "dynamic_sampling/draws": 8,
            "dynamic_sampling/generated": 16,
            "dynamic_sampling/discarded": 8 - 2 * kept,
            "dynamic_sampling/carried_over": 0,
            "dynamic_sampling/kept": kept,
            "dynamic_sampling/batch_reward": 1 / 2,
        }
    )


def test_leftovers_are_the_first_groups_of_the_next_step() -> None:
    calls: list[tuple[int, int]] = []
    draw, rollout = drawing(PATTERN.__getitem__, calls), settings(4, "keep")
    _, first = filled(draw, rollout, Position(draws=0))
    position = Position(step=1, draws=8, leftovers=first.leftovers)
    batch, second = filled(draw, rollout, position)
    assert calls[2:] == [
        (8, 3),
        (11, 4),
    ]  # 1 of 3 mixed, 2 missing: 3 (2 + sqrt 2), at most 4
    assert draws_of(batch) == [7, 9, 12, 13] and draws_of(second.leftovers) == [14]
    numbers = {name: second.metrics[f"dynamic_sampling/{name}"] for name in COUNTS}
    assert numbers == dict(zip(COUNTS, (2, 7, 14, 14 - 6 - 2, 1, 1), strict=True))


COUNTS = ("rounds", "draws", "generated", "discarded", "carried_over", "kept")


def scored_zero(groups: RolloutGroups | None) -> RolloutGroups | None:
    """As after the score pass."""
    if groups is None:
        return None
    zeros = torch.zeros(sum(len(rollout.token_ids) for rollout in groups.rollouts))
    return RolloutGroups(
        requests=groups.requests,
        rollouts=groups.rollouts,
        verdicts=groups.verdicts,
        scored=(zeros, zeros),
    )


@given(
    pattern=st.lists(st.sampled_from([EASY, MIXED, HARD]), min_size=1, max_size=12),
    prompts=st.integers(1, 5),
    leftover=st.sampled_from(["drop", "keep"]),
)
def test_every_batch_has_exactly_n_mixed_groups_and_no_draw_is_used_twice_or_skipped(
    pattern: list[tuple[bool, bool]], prompts: int, leftover: str
) -> None:
    """Over four steps, for problems that repeat with any pattern that has a mixed one."""
    pattern = [*pattern, MIXED]
    calls: list[tuple[int, int]] = []
    draw = drawing(lambda n: pattern[n % len(pattern)], calls)
    position, used, left = Position(), [], []
    for step in range(4):
        batch, generated = filled(draw, settings(prompts, leftover, 1000), position)
        left = draws_of(generated.leftovers)
        used += draws_of(batch)
        assert len(batch.requests) == prompts
        assert len(left) < prompts and (leftover == "keep" or not left)
        position = Position(
            step=step + 1,
            draws=position.draws + generated.draws,
            leftovers=scored_zero(generated.leftovers),
        )
    assert all(pattern[n % len(pattern)] is MIXED for n in used)
    assert used + left == sorted({*used, *left})
    drawn = [n for first, count in calls for n in range(first, first + count)]
    assert drawn == list(range(position.draws))
    assert all(1 <= count <= prompts for _, count in calls)
    mixed = [n for n in drawn if pattern[n % len(pattern)] is MIXED]
    assert used + left == mixed or leftover == "drop"


@pytest.mark.parametrize(
    ("missing", "mixed", "draws", "expected"),
    [
        (32, 0, 0, 32),  # the first round
        (4, 16, 32, 12),  # (4 + 2) / (1/2)
        (9, 24, 32, 16),  # (9 + 3) / (3/4)
        (1, 31, 32, 3),  # (1 + 1) / (31/32) = 2.06
        (16, 16, 32, 32),  # 40, and no round is larger than the first
        (32, 0, 32, 32),
    ],
)
def test_a_round_asks_for_what_is_missing_at_the_share_seen_so_far(
    missing: int, mixed: int, draws: int, expected: int
) -> None:
    assert size_of_round(missing, mixed, draws, most=32) == expected


def test_too_few_mixed_groups_end_the_step_in_one_sentence() -> None:
    calls: list[tuple[int, int]] = []
    draw = drawing(lambda n: MIXED if n == 3 else HARD, calls)
    stopped = fill_batch(draw, settings(4, max_rounds=3), Position(step=6))
    assert isinstance(stopped, Stopped) and stopped.code == 2
    assert stopped.why.startswith(
        "step 7: 1 of 12 groups in 3 rounds had both correct and wrong responses, too few for "
        "rollout.prompts = 4; resume with a larger rollout.dynamic_sampling.max_rounds"
    )
    assert calls == [(0, 4), (4, 4), (8, 4)]


def test_a_stop_between_rounds_returns_the_reason() -> None:
    def draw(*, first_draw: int, count: int) -> Any:
        if first_draw:
            return Stopped(why="SIGTERM", code=75)
        return drawing(lambda n: HARD, [])(first_draw=first_draw, count=count)

    stopped = fill_batch(draw, settings(2), Position())
    assert isinstance(stopped, Stopped) and stopped.why == "SIGTERM"


@pytest.mark.parametrize(
    ("truncation", "expected"), [("score", [0, 2]), ("zero", [1, 3]), ("mask", [])]
)
def test_a_group_is_mixed_by_the_rewards_and_rollouts_that_training_uses(
    truncation: str, expected: list[int]
) -> None:
    """The first rollout of every group is truncated: (correct, wrong) is mixed only as it is,
    (correct, correct) only if truncation costs the reward, and one rollout alone never is."""
    draw = drawing(lambda n: (MIXED, EASY)[n % 2], [], truncated=True)
    result = fill_batch(draw, settings(2, truncation=truncation, max_rounds=2), Position())
    if expected:
        assert not isinstance(result, Stopped) and draws_of(result[0]) == expected
    else:
        assert isinstance(result, Stopped) and "0 of 4 groups" in result.why


def test_without_the_setting_a_step_is_one_round_of_whatever_it_draws() -> None:
    calls: list[tuple[int, int]] = []
    result = generate_batch(
        drawing(lambda n: HARD, calls),
        settings(3, dynamic_sampling=None),
        Position(draws=5),
    )
    assert not isinstance(result, Stopped) and draws_of(result[0]) == [5, 6, 7]
    assert result[1] is None and calls == [(5, 3)]


def test_known_scores_are_kept_and_only_the_other_rows_are_scored() -> None:
    groups = drawing(PATTERN.__getitem__, [])(first_draw=0, count=3)
    assert not isinstance(groups, Stopped)
    tokens, trained = tokenise(groups.requests, groups.rollouts), policy()
    engine = hf()
    engine.exact_logprobs = False
    logprobs, entropy = score_rollouts(tokens, groups.rollouts, engine, trained)
    first = sum(len(rollout.token_ids) for rollout in groups.rollouts[:GROUP])
    known = torch.full((first,), -9.0), torch.full((first,), 9.0)
    mixed = score_rollouts(tokens, groups.rollouts, engine, trained, known)
    assert torch.equal(mixed[0][:first], known[0]) and torch.equal(mixed[1][:first], known[1])
    torch.testing.assert_close(mixed[0][first:], logprobs[first:])
    torch.testing.assert_close(mixed[1][first:], entropy[first:])


# Whole runs on the tiny model.

KEEP = "rollout.dynamic_sampling={leftover: keep}"
DROP = "rollout.dynamic_sampling={leftover: drop}"
EVERY = "tracking.rollouts_every=1"


def rows(folder: Path, step: int) -> list[dict[str, Any]]:
    file = folder / "rollouts" / f"step-{step:06d}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def draws_by_step(folder: Path, steps: int) -> list[list[int]]:
    """The draws of each batch, after a check that it has 6 whole mixed groups in order."""
    found = []
    for step in range(1, steps + 1):
        batch = rows(folder, step)
        assert [row["sample"] for row in batch] == [0, 1, 2, 3] * 6
        draws = [row["draw"] for row in batch][::4]
        assert draws == sorted(set(draws)) and [row["draw"] for row in batch] == [
            draw for draw in draws for _ in range(4)
        ]
        for draw in draws:
            assert {row["reward"] for row in batch if row["draw"] == draw} == {0, 1}
        found.append(draws)
    return found


@pytest.fixture(scope="module", params=[KEEP, DROP], ids=["keep", "drop"])
def dynamic(request: pytest.FixtureRequest, config_file: Path, tmp_path_factory) -> tuple:
    """A run of four steps, with its settings."""
    overrides = (request.param, EVERY, "steps=4", "seed=3")
    folder = run(config_file, tmp_path_factory.mktemp("dynamic") / "whole", *overrides)
    return folder, overrides


def test_a_run_trains_on_whole_mixed_groups_only(dynamic: tuple) -> None:
    folder, overrides = dynamic
    draws = draws_by_step(folder, 4)
    steps = metrics(folder)[1:]
    assert any(row["dynamic_sampling/rounds"] > 1 for row in steps)
    assert any(row["groups/all_solved"] + row["groups/none_solved"] > 0 for row in steps)
    for row in steps:
        assert row["dynamic_sampling/generated"] == 4 * row["dynamic_sampling/draws"]
        assert row["optim/updates"] == 2 * row["step"]
        in_batch = 24 + 4 * (row["dynamic_sampling/kept"] - row["dynamic_sampling/carried_over"])
        assert row["dynamic_sampling/discarded"] == row["dynamic_sampling/generated"] - in_batch
    documented = (CONFIG_DIR.parent / "docs" / "metrics.md").read_text()
    names = {name for name in steps[0] if name.startswith("dynamic_sampling/")}
    assert len(names) == 8 and all(f"`{name}`" in documented for name in names)
    kept = [row["dynamic_sampling/kept"] for row in steps]
    assert [row["dynamic_sampling/carried_over"] for row in steps] == [0, *kept[:-1]]
    assert any(kept) == (overrides[0] == KEEP)
    flat = [draw for step in draws for draw in step]
    assert flat == sorted(set(flat))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_resumed_run_has_the_same_rollouts_metrics_and_weights(
    dynamic: tuple, config_file: Path, tmp_path: Path, step: int
) -> None:
    whole, overrides = dynamic
    folder = resumed(config_file, whole, tmp_path / "run", step, *overrides)
    assert comparable(folder) == comparable(whole)
    assert same_weights(folder, whole)
    for later in range(step + 1, 5):
        assert rows(folder, later) == rows(whole, later)


def resumed(
    config_file: Path, whole: Path, folder: Path, step: int, *overrides: str, **parts: Any
) -> Path:
    """A copy of a run of four steps, as a kill after `step` leaves it, run again."""
    shutil.copytree(whole, folder, symlinks=True)
    for later in range(step + 1, 5):
        shutil.rmtree(folder / "checkpoints" / f"step-{later:06d}")
    checkpoint.point_link(folder / "checkpoints", "latest", f"step-{step:06d}")
    return run_with(config_file, folder, *overrides, **parts)


def scripted(tokenizer: Any, mixed_until: int = 10**9) -> ScriptedEngine:
    """Of draw n, the first n % 5 of four responses are right; from draw mixed_until on, none."""
    texts = {tokenizer.decode([token]): token for token in range(len(tokenizer))}
    wrong, right = texts["a"], texts["b"]  # by the code points, 97 and 98

    def script(request: Request, sample: int) -> list[int]:
        is_right = sample < request.draw % 5 and request.draw < mixed_until
        return [right if is_right else wrong, tokenizer.eos_token_id]

    return ScriptedEngine(script, tokenizer.decode)


def test_with_a_scripted_engine_the_batches_are_known_and_resume_exactly(
    config_file: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """Its log-probs are not exact, so kept groups have scores of an earlier policy in a checkpoint.

    Draws 1, 2 and 3 of every five are mixed. Step 1 draws 0-5 and finds 1, 2, 3; 3 are missing, so
    it draws (3 + sqrt 3) / (3/6) = 9.5, at most 6 more: 6, 7, 8, 11 are mixed, and 11 is kept.
    """
    overrides = [KEEP, EVERY, "steps=4"]
    whole = run_with(config_file, tmp_path / "whole", *overrides, engine=scripted(tokenizer))
    draws = draws_by_step(whole, 4)
    assert draws[0] == [1, 2, 3, 6, 7, 8] and draws[1][0] == 11
    assert [n for step in draws for n in step] == [n for n in range(41) if n % 5 in (1, 2, 3)][:24]
    engine = scripted(tokenizer)
    folder = resumed(config_file, whole, tmp_path / "run", 1, *overrides, engine=engine)
    assert comparable(folder) == comparable(whole) and same_weights(folder, whole)


def test_kept_groups_have_the_scores_of_the_policy_that_generated_them(
    config_file: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """Those of the untrained policy, in the checkpoint after its first update."""
    folder = run_with(config_file, tmp_path, KEEP, "steps=1", engine=scripted(tokenizer))
    config = load_config(str(config_file))
    with verifiers.make("first_letter") as verifier:
        problems = load_data(config, pretrained.load_tokenizer(config.model), verifier).problems
    leftovers = read_leftovers(folder / "checkpoints" / "latest", problems)
    assert draws_of(leftovers, 4) == [11] and leftovers.scored
    tokens = tokenise(leftovers.requests, leftovers.rollouts)
    untrained = policy(pretrained.load_model(config.model, torch.float32), temperature=1.0)
    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / "latest")
    trained = policy(model, temperature=1.0)
    for expected, saved in zip(untrained.score(tokens), leftovers.scored, strict=True):
        torch.testing.assert_close(saved, expected)
    assert not torch.allclose(trained.score(tokens)[0], leftovers.scored[0], atol=1e-3)


def test_leftovers_on_disk_are_exact(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    groups = drawing(PATTERN.__getitem__, [])(first_draw=0, count=3)
    assert not isinstance(groups, Stopped)
    count = sum(len(rollout.token_ids) for rollout in groups.rollouts)
    scored = torch.randn(count), torch.rand(count)
    groups = RolloutGroups(
        requests=groups.requests,
        rollouts=groups.rollouts,
        verdicts=[*groups.verdicts[:-1], Verdict(reason="crashed", answer="\ud800", seconds=0.1)],
        scored=scored,
    )
    write_leftovers(tmp_path, groups)
    read = read_leftovers(tmp_path, [request.problem for request in groups.requests])
    assert (read.requests, read.rollouts, read.verdicts) == (
        groups.requests,
        groups.rollouts,
        groups.verdicts,
    )
    assert read.scored and all(map(torch.equal, read.scored, scored))


@pytest.mark.parametrize("name", FILES)
def test_damaged_leftovers_are_one_sentence(
    dynamic: tuple, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    whole, overrides = dynamic
    with_leftovers = [
        row["step"] for row in metrics(whole)[1:-1] if row["dynamic_sampling/kept"] > 0
    ]
    if not with_leftovers:
        assert overrides[0] == DROP and not list(whole.glob(f"checkpoints/*/{name}"))
        return
    folder = tmp_path / "run"
    shutil.copytree(whole, folder, symlinks=True)
    saved = folder / "checkpoints" / f"step-{with_leftovers[0]:06d}"
    checkpoint.point_link(folder / "checkpoints", "latest", saved.name)
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[:-1] + b"x")
    arguments = ["--config", str(config_file), "--output-dir", str(folder), *overrides]
    assert train.main(arguments) == 2
    assert f"damaged: {name} has changed since it was saved" in capsys.readouterr().err
    (saved / name).unlink()
    assert train.main(arguments) == 2
    assert f"damaged: {name} is missing" in capsys.readouterr().err


def test_too_few_mixed_groups_end_a_run_after_its_last_step_is_saved(
    config_file: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """Draws from 12 on are never mixed. The checkpoint of step 1 is not due."""
    engine = scripted(tokenizer, mixed_until=12)
    overrides = ["rollout.dynamic_sampling={max_rounds: 2}", "checkpoint.every=50", "steps=4"]
    with pytest.raises(UserError, match=r"step 2: 0 of 12 groups in 2 rounds .*; all finished st"):
        run_with(config_file, tmp_path / "run", *overrides, engine=engine)
    last = checkpoint.latest(tmp_path / "run")
    assert last and checkpoint.load_position(last).step == 1
    assert checkpoint.load_position(last).draws == 12
    assert [row["step"] for row in metrics(tmp_path / "run")] == [0, 1]


def test_a_run_from_another_runs_checkpoint_starts_without_leftovers(
    dynamic: tuple, config_file: Path, tmp_path: Path
) -> None:
    whole, overrides = dynamic
    start = str(whole / "checkpoints" / "step-000002")
    folder = run(config_file, tmp_path / "run", "--resume", start, *overrides[:-1], "steps=3")
    assert metrics(folder)[0]["dynamic_sampling/carried_over"] == 0
