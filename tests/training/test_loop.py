"""The loop on real parts: a tiny model, the hf engine, the local policy, files in a run folder."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from asymrl.config.load import CONFIG_DIR, load_config
from asymrl.engines import pretrained
from asymrl.engines.distributed import World
from asymrl.engines.hf import HFEngine
from asymrl.engines.local import LocalPolicy
from asymrl.engines.rollout import never
from asymrl.engines.scripted import ScriptedEngine
from asymrl.errors import UserError
from asymrl.training.loop import is_due, sync_weights
from asymrl.training.rollout import generate_and_verify, rewards_and_mask
from asymrl.types import Rollout, Verdict
from asymrl.verifiers import make
from tests.helpers.engines import SAMPLING, STOP, decode, hf, requests
from tests.helpers.policies import arguments, policy
from tests.helpers.runs import comparable, engine_of, metrics, run, run_with, same_weights


def test_an_engine_that_shares_the_policys_weights_trains_like_one_with_a_copy(
    finished, config_file, tmp_path
) -> None:
    folder = run_with(config_file, tmp_path / "copy", engine=engine_of(config_file))
    assert comparable(folder) == comparable(finished)


def test_a_run_folder_holds_what_it_promises(finished: Path) -> None:
    rows = metrics(finished)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert "eval/problems/greedy/avg" in rows[0] and "reward/mean" not in rows[0]
    assert [row["step"] for row in rows if "eval/problems/greedy/avg" in row] == [0, 2, 4, 5]
    names = {p.name for p in (finished / "rollouts").iterdir()}
    assert names == {f"step-{n:06d}.jsonl" for n in (1, 2, 4, 5)}
    assert {p.name for p in (finished / "eval" / "step-000004").iterdir()} == {"greedy", "t1"}
    assert (finished / "eval" / "step-000004" / "greedy" / "problems.jsonl").is_file()
    assert json.loads((finished / "environment.json").read_text())[0]["packages"]["torch"]
    assert (finished / "checkpoints" / "latest").resolve().name == "step-000005"


CONTRACT = """
reward/mean policy/entropy policy/entropy_positive policy/entropy_negative groups/all_solved
groups/none_solved diag/kappa diag/mass_positive diag/mass_negative
diag/logprob_gain_positive loss/total loss/clip_fraction_low loss/clip_fraction_high
loss/ratio_max optim/grad_norm optim/lr optim/updates advantage/beta_pos advantage/beta_neg
rollout/length_mean rollout/truncated rollout/logprob_mismatch_mean
rollout/logprob_mismatch_max verdict/correct verdict/timeout eval/problems/greedy/avg
eval/problems/t1/pass_at_k time/generate time/update perf/rollout_tokens_per_s
perf/update_tokens_per_s perf/skipped_rows
"""


def test_a_step_logs_every_metric_of_the_contract(finished: Path) -> None:
    last = metrics(finished)[-1]
    assert set(CONTRACT.split()) <= last.keys()
    assert last["optim/updates"] == 10


def test_every_logged_metric_is_documented(finished: Path) -> None:
    text = (CONFIG_DIR.parent / "docs" / "metrics.md").read_text()
    documented = [re.sub("<.*?>", "[^/]+", name) for name in re.findall(r"`([a-z]+/[^`]+)`", text)]
    documented += ["eval/[^/]+/[^/]+/(stderr|pass_at_k|truncated)"]
    for row in metrics(finished):
        for name in row.keys() - {"step"}:
            assert any(re.fullmatch(pattern, name) for pattern in documented), name


def test_rollouts_can_be_read(finished: Path) -> None:
    lines = (finished / "rollouts" / "step-000002.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 24
    for row in rows:
        assert row["problem"] in row["prompt"] and row["tokens"] <= 6
        assert (row["reward"] == 1) == (row["reason"] == "correct")
        assert row["advantage"] * (2 * row["reward"] - 1) >= 0


def test_training_teaches_what_is_rewarded(config_file: Path, tmp_path: Path) -> None:
    folder = run(config_file, tmp_path / "run", "steps=25", "eval.every=25", "checkpoint.every=25")
    rewards = [row["reward/mean"] for row in metrics(folder)[1:]]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_resumed_run_equals_the_uninterrupted_one(
    config_file: Path, finished: Path, tmp_path: Path, step: int
) -> None:
    """The folder as a kill just before the next checkpoint leaves it."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "checkpoints" / "latest").unlink()
    (folder / "checkpoints" / "latest").symlink_to(f"step-{step:06d}")
    for later in range(step + 1, 6):
        shutil.rmtree(folder / "checkpoints" / f"step-{later:06d}")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "half a li')
    assert run(config_file, folder)
    assert comparable(folder) == comparable(finished)
    assert same_weights(folder, finished)
    for name in ("rollouts/step-000004.jsonl", "eval/step-000004/t1/problems.jsonl"):
        assert (folder / name).read_text() == (finished / name).read_text()


def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    config_file: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    shutil.rmtree(folder / "checkpoints")
    run(config_file, folder)
    assert comparable(folder) == comparable(finished)


def test_a_finished_run_is_left_as_it_is_and_more_steps_continue_it(
    config_file: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    run(config_file, folder)
    assert metrics(folder) == metrics(finished)
    run(config_file, folder, "steps=6")
    assert [row["step"] for row in metrics(folder)] == list(range(7))


def test_a_branch_killed_early_goes_on_from_where_it_began(
    config_file: Path, finished: Path, tmp_path: Path
) -> None:
    checkpoint = finished / "checkpoints" / "step-000003"
    arguments = ["--resume", str(checkpoint), "seed=7", "checkpoint.every=50"]
    folder = run(config_file, tmp_path / "run", *arguments)
    whole = comparable(folder)
    shutil.rmtree(folder / "checkpoints" / "step-000005")
    (folder / "checkpoints" / "latest").unlink()
    (folder / "checkpoints" / "latest").symlink_to("step-000003")
    run(config_file, folder, "seed=7")
    assert comparable(folder) == whole


def test_leftovers_of_a_kill_are_cleared(config_file: Path, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    half = folder / "checkpoints" / ".step-000009.tmp"
    orphan = folder / "checkpoints" / "step-000009"
    for left in (half, orphan):
        shutil.copytree(finished / "checkpoints" / "step-000001", left)
    (folder / "rollouts" / ".step-000009.jsonl.77.tmp").write_text("half")
    run(config_file, folder, "steps=6")
    names = {path.name for path in folder.rglob("*") if "000009" in path.name}
    assert names == set()


def test_a_run_can_begin_from_another_runs_checkpoint(
    config_file: Path, finished: Path, tmp_path: Path
) -> None:
    checkpoint = finished / "checkpoints" / "step-000003"
    folder = run(config_file, tmp_path / "run", "--resume", str(checkpoint), "seed=7")
    assert [row["step"] for row in metrics(folder)] == [4, 5]


@pytest.mark.parametrize(
    "override",
    ["rollout.max_rows=5", "eval.every=1", "checkpoint.every=5", "tracking.logprob_gain_every=0"],
)
def test_what_is_no_part_of_the_method_changes_no_step(
    config_file: Path, finished: Path, tmp_path: Path, override: str
) -> None:
    """Sampling in smaller groups, evaluating, saving: the same trajectory."""
    folder = run(config_file, tmp_path / "run", override)
    for mine, theirs in zip(metrics(folder)[1:], metrics(finished)[1:], strict=True):
        for name in ("reward/mean", "policy/entropy", "optim/grad_norm", "diag/kappa"):
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3, abs=1e-6), name


def test_a_seed_is_the_whole_run_and_another_is_another(
    config_file: Path, finished: Path, tmp_path: Path
) -> None:
    again = run(config_file, tmp_path / "again")
    assert comparable(again) == comparable(finished) and same_weights(again, finished)
    other = run(config_file, tmp_path / "other", "seed=1", "steps=1")
    assert comparable(other)[1] != comparable(finished)[1]


class InexactEngine(HFEngine):
    """Its log-probs must be computed again by the policy."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.exact_logprobs = False


def test_exact_engine_values_save_the_score_pass_and_change_nothing(
    config_file: Path, finished: Path, tmp_path: Path
) -> None:
    folder = run_with(config_file, tmp_path / "run", engine=engine_of(config_file, InexactEngine))
    for mine, theirs in zip(metrics(folder)[1:], metrics(finished)[1:], strict=True):
        assert mine["rollout/logprob_mismatch_max"] < 1e-4
        for name in ("policy/entropy", "diag/kappa", "optim/grad_norm", "loss/total"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name


def test_rows_without_an_advantage_need_no_score(config_file, tmp_path, monkeypatch) -> None:
    counts: list[int] = []
    score = LocalPolicy.score

    def counted(self: LocalPolicy, tokens: Any) -> Any:
        counts.append(len(tokens.sequences))
        return score(self, tokens)

    monkeypatch.setattr(LocalPolicy, "score", counted)
    folders, scored = [], []
    for setting in ("true", "false"):
        overrides = [f"policy.score_all_rows={setting}", "tracking.logprob_gain_every=4"]
        engine = engine_of(config_file, InexactEngine)
        folders.append(run_with(config_file, tmp_path / setting, *overrides, engine=engine))
        scored.append([*counts[:4], counts[5]])  # without those of the gain, after steps 4 and 5
        counts.clear()
    whole, part = map(metrics, folders)
    assert scored[0] == [24] * 5
    assert scored[1][3:] == [24, 24] and all(count < 24 for count in scored[1][:3])
    for mine, theirs in zip(part[1:], whole[1:], strict=True):
        for name in ("diag/kappa", "optim/grad_norm", "loss/total", "loss/ratio_max"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
        assert mine["rollout/logprob_mismatch_max"] < 1e-4
        differs = mine["policy/entropy"] != pytest.approx(theirs["policy/entropy"], rel=1e-3)
        assert differs == (mine["step"] < 4)


@pytest.mark.parametrize(
    ("override", "required"),
    [
        ("loss.kl_coef=0.1", "loss.kl_coef = 0"),
        ("loss.entropy_bonus=0.1", "loss.entropy_bonus = 0"),
        ("loss.name=kl_cov", "not clip_cov or kl_cov"),
        ("reweight={name: high_entropy, rho: 0.2}", "reweight.name = none"),
        (
            "schedule={name: entropy_steering, entropy_low: 0.2, entropy_high: 0.5}",
            "schedule.name = constant",
        ),
    ],
)
def test_methods_that_read_every_row_require_all_scores(config_file, override, required) -> None:
    overrides = ["policy.score_all_rows=false", override]
    with pytest.raises(UserError, match=f"score_all_rows=false requires .*{required}"):
        load_config(str(config_file), overrides)


def rollout(truncated: bool) -> Rollout:
    return Rollout(
        draw=0,
        sample=0,
        token_ids=(1,),
        text="",
        truncated=truncated,
        engine_logprobs=(0.0,),
        engine_entropy=None,
    )


@pytest.mark.parametrize(
    ("truncation", "rewards", "valid"),
    [
        ("score", [1, 1, 0], [True, True, True]),
        ("zero", [1, 0, 0], [True, True, True]),
        ("mask", [1, 0, 0], [True, False, True]),
    ],
)
def test_truncation_settings(truncation: str, rewards: list, valid: list) -> None:
    right, wrong = (Verdict(reason=r, answer=None, seconds=0) for r in ("correct", "wrong"))
    rollouts = [rollout(False), rollout(True), rollout(False)]
    judged = rewards_and_mask(rollouts, [right, right, wrong], truncation)
    assert [tensor.tolist() for tensor in judged] == [rewards, valid]


class Reversed(ScriptedEngine):
    """Finishes last what was asked for first."""

    def generate(self, requests, sampling, stop_requested=never):
        yield from reversed(list(super().generate(requests, sampling, stop_requested)))


def test_rollouts_are_sorted_however_they_finish_and_judged_by_their_own_gold() -> None:
    asked = requests(3, 2)
    asked = [replace(r, problem=replace(r.problem, gold=str(r.draw))) for r in asked]
    engine = Reversed(
        lambda request, sample: [request.draw, STOP], lambda ids: f"\\boxed{{{ids[0]}}}"
    )
    with make("exact") as verifier:
        rollouts, verdicts = generate_and_verify(
            asked, engine=engine, verifier=verifier, sampling=SAMPLING, world=World()
        )
    keys = [(rollout.draw, rollout.sample) for rollout in rollouts]
    assert keys == sorted(keys) and len(keys) == 6
    assert [verdict.answer for verdict in verdicts] == [str(draw) for draw, _ in keys]
    assert all(verdict.reason == "correct" for verdict in verdicts)


class Corrupting(ScriptedEngine):
    """Changes one entry of one tensor on the way in."""

    def load_weights(self, named) -> None:
        super().load_weights(
            (name, tensor + (name == "model.norm.weight") * 1e-3) for name, tensor in named
        )


def test_a_checked_sync_stops_at_a_corrupted_tensor() -> None:
    sync_weights(policy(), hf(), check=True)
    engine = Corrupting(lambda request, sample: [7], decode)
    sync_weights(policy(), engine, check=False)
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight"):
        sync_weights(policy(), engine, check=True)


class DamagedEngine(HFEngine):
    """One entry of its weights is wrong after its load number `damaged_load`."""

    def __init__(self, *arguments: Any, damaged_load: int) -> None:
        super().__init__(*arguments)
        self.loads, self.damaged_load = 0, damaged_load

    def load_weights(self, named: Any) -> None:
        super().load_weights(named)
        self.loads += 1
        if self.loads == self.damaged_load:
            with torch.no_grad():
                self.model.get_parameter("model.norm.weight")[0] += 1e-3


@pytest.mark.parametrize(("at", "every"), [(1, 1000), (2, 1000), (3, 2), (5, 4)])
def test_syncs_are_checked_at_the_start_the_first_step_and_every_so_often(
    config_file: Path, tmp_path: Path, at: int, every: int
) -> None:
    engine = engine_of(config_file, DamagedEngine, damaged_load=at)
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight"):
        setting = f"rollout.sync_check_every={every}"
        run_with(config_file, tmp_path / "run", setting, engine=engine)


@pytest.mark.parametrize("at", [1, 2])
def test_a_resumed_run_checks_its_first_syncs(config_file: Path, tmp_path: Path, at: int) -> None:
    every = "rollout.sync_check_every=1000"
    run(config_file, tmp_path / "run", every, "steps=2")
    engine = engine_of(config_file, DamagedEngine, damaged_load=at)
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight"):
        run_with(config_file, tmp_path / "run", every, "steps=4", engine=engine)


def test_engine_and_policy_take_turns(config_file: Path, tmp_path: Path) -> None:
    """On a GPU the memory of the one is the memory of the other."""
    calls: list[str] = []

    class RecordedEngine(HFEngine):
        def sleep(self) -> None:
            calls.append("engine.sleep")
            super().sleep()

        def load_weights(self, named: Any) -> None:
            calls.append("engine.load_weights")
            super().load_weights(named)

    class RecordedPolicy(LocalPolicy):
        def update(self, minibatch: Any, loss: Any) -> Any:
            calls.append("policy.update")
            return super().update(minibatch, loss)

        def sleep(self) -> None:
            calls.append("policy.sleep")
            super().sleep()

    config = load_config(str(config_file))
    model = pretrained.load_model(config.model, torch.float32)
    trained = RecordedPolicy(model, **arguments(temperature=1.0))
    engine = engine_of(config_file, RecordedEngine)
    run_with(config_file, tmp_path / "run", "steps=2", engine=engine, policy=trained)
    sync = ["policy.sleep", "engine.load_weights"]
    step = ["engine.sleep", "policy.update", "policy.update", *sync]
    assert calls == sync + step + step


def test_is_due() -> None:
    assert [step for step in range(1, 8) if is_due(step, 3, 7)] == [3, 6, 7]
    assert not any(is_due(step, 0, 7) for step in range(1, 8))


def test_real_problems_take_whole_steps(shared_data: Path, model_folder: Path, tmp_path: Path):
    """Tokens in, verdicts of the math verifier out, weights changed."""
    settings = [f"data.train={shared_data / 'math_train.jsonl'}", f"model.path={model_folder}"]
    folder = run(Path("pocket_math_smoke.yaml"), tmp_path, *settings, "model.shape=null", "steps=2")
    for row in metrics(folder)[1:]:
        verdicts = sum(n for name, n in row.items() if name.startswith("verdict/"))
        assert verdicts == pytest.approx(1) and row["optim/grad_norm"] > 0
    before = load_file(model_folder / "model.safetensors")
    after = load_file(folder / "checkpoints" / "latest" / "model.safetensors")
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_importance_weights_reach_the_loss_where_the_engine_is_not_exact(
    config_file: Path, tmp_path: Path, level: str
) -> None:
    """In bf16 the engine's log-probs are not the policy's."""
    settings = ["policy.dtype=bfloat16", "steps=1"]
    plain = metrics(run(config_file, tmp_path / "plain", *settings))[1]
    settings.append(f"loss.importance_sampling={level}")
    weighed = metrics(run(config_file, tmp_path / "weighed", *settings))[1]
    assert plain["rollout/logprob_mismatch_max"] == weighed["rollout/logprob_mismatch_max"] > 0
    assert plain["optim/grad_norm"] == pytest.approx(weighed["optim/grad_norm"], rel=0.2)
    assert plain["optim/grad_norm"] != weighed["optim/grad_norm"]
