"""The probe: restored weights, exact references, a softmax table with known signs, the CLI."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import Qwen3Config

from asymrl.algo.batch import make_groups
from asymrl.engines.local import LocalPolicy
from asymrl.errors import UserError
from studies import probe, probe_report
from studies.probe import estimator, mixed_only, trial
from studies.probe_report import (
    Interval,
    StepEffect,
    Trial,
    fit,
    interval,
    prediction,
    summarise,
    word,
)
from tests.helpers import policies
from tests.helpers.probe import (
    DEFAULT_ESTIMATORS,
    REWARDS,
    make_tokens,
    policy,
    random_tokens,
    rollout_batch,
    tiny_trial,
)

__all__ = ["policy"]


def test_weights_are_restored_bit_for_bit(policy) -> None:
    before = {name: weight.clone() for name, weight in policy.named_weights()}
    done = tiny_trial(policy, step_size=0.1)
    assert all(abs(effect.change) > 1e-3 for effect in done.effects.values())
    assert all(torch.equal(before[name], weight) for name, weight in policy.named_weights())


def test_weights_are_restored_after_an_exception(policy) -> None:
    before = {name: weight.clone() for name, weight in policy.named_weights()}
    calls = iter(range(3))

    class Stopping(LocalPolicy):
        def score(self, batch):
            next(calls)  # StopIteration during the first estimator
            return super().score(batch)

    batch = rollout_batch(policy, random_tokens(0), REWARDS)
    stopping = Stopping.__new__(Stopping)
    stopping.__dict__ = policy.__dict__
    with pytest.raises(StopIteration):
        trial(
            stopping,
            batch,
            random_tokens(1),
            DEFAULT_ESTIMATORS,
            step_size=0.1,
            aggregation="token_mean",
        )
    assert all(torch.equal(before[name], weight) for name, weight in policy.named_weights())


def test_a_trial_is_reproducible(policy) -> None:
    assert tiny_trial(policy) == tiny_trial(policy)


def test_reinforces_step_has_the_requested_length(policy) -> None:
    done = tiny_trial(policy, step_size=1e-3)
    batch = rollout_batch(policy, random_tokens(0), REWARDS)
    groups = make_groups(batch.tokens, batch.scored, batch.rewards, batch.valid)
    probe.backward(policy, batch, groups, estimator("0,0"), "token_mean")
    grad_norm = torch.cat([g.flatten() for g in probe.gradients(policy).values()]).norm()
    weights = torch.cat([w.flatten() for _, w in policy.named_weights()]).norm()
    assert done.lr * grad_norm.item() == pytest.approx(1e-3 * weights.item(), rel=1e-4)


@pytest.mark.parametrize("aggregation", ["token_mean", "prompt_mean", "seq_mean", "constant"])
def test_half_a_small_step_has_half_the_effect(policy, aggregation) -> None:
    done = tiny_trial(policy, step_size=1e-4, aggregation=aggregation)
    for effect in done.effects.values():
        assert effect.half / effect.change == pytest.approx(0.5, abs=0.03)


def test_reinforces_shift_from_itself_is_exactly_zero(policy) -> None:
    trials = [tiny_trial(policy), tiny_trial(policy, step_size=2e-4)]
    first, *others = summarise(trials, {e.label: e.lean for e in DEFAULT_ESTIMATORS}).rows
    assert first.label == "(0, 0)" and first.word == "the reference"
    assert first.shift == Interval(mean=0.0, half_width=0.0)
    assert first.gain_shift == Interval(mean=0.0, half_width=0.0)
    assert all(row.shift.mean != 0 for row in others)


def test_all_solved_and_none_solved_groups_leave_a_mixed_batch(policy) -> None:
    batch = rollout_batch(policy, random_tokens(0), REWARDS)
    assert mixed_only(batch).valid.tolist() == [True] * 8 + [False] * 4
    masked = replace(batch, valid=torch.tensor([False, True, True, False] + [True] * 8))
    assert mixed_only(masked).valid.tolist() == [False] * 4 + [True] * 4 + [False] * 4


def test_a_batch_without_a_mixed_group_is_an_error(policy) -> None:
    batch = mixed_only(rollout_batch(policy, random_tokens(0), [1.0] * 12))
    with pytest.raises(probe.UserError, match="no gradient"):
        settings: dict[str, Any] = {"step_size": 1e-4, "aggregation": "token_mean"}
        trial(policy, batch, random_tokens(1), DEFAULT_ESTIMATORS, **settings)


class Table(nn.Module):
    """A softmax table as a causal LM: logits depend on the previous token only."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(len(logits), len(logits), bias=False)
        self.head.weight = nn.Parameter(logits.T.contiguous())  # (V, contexts)
        self.config = Qwen3Config(vocab_size=len(logits))
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def get_decoder(self) -> Any:
        return self.decode

    def decode(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        hidden = nn.functional.one_hot(input_ids, self.config.vocab_size).float()
        return SimpleNamespace(last_hidden_state=hidden)

    def forward(self, input_ids: Tensor) -> Any:
        return SimpleNamespace(logits=self.head(self.decode(input_ids).last_hidden_state))


def table_trial(probabilities: list[float], right: set[int]) -> tuple[Trial, float]:
    """A trial on ten one-token answers to token 9, as frequent as their probabilities, so that the
    gradient is the expected one; and sum_a pi_a^2 (log pi_a + H) (1[a is correct] - p)."""
    pi = torch.tensor(probabilities).double()
    logits = torch.zeros(10, 10)
    logits[9] = torch.cat([pi, torch.full((10 - len(pi),), 1e-12).double()]).log().float()
    policy = policies.policy(Table(logits), temperature=1.0)
    answers = [a for a, share in enumerate(probabilities) for _ in range(round(10 * share))]
    tokens = make_tokens([(9,)], [[(a,) for a in answers]])
    batch = rollout_batch(policy, tokens, [float(a in right) for a in answers])
    done = trial(
        policy, batch, tokens, DEFAULT_ESTIMATORS, step_size=1e-4, aggregation="token_mean"
    )
    hits = torch.tensor([float(a in right) for a in range(len(pi))]).double()
    entropy = -(pi * pi.log()).sum()
    sensitivity = (pi**2 * (pi.log() + entropy) * (hits - (pi * hits).sum())).sum().item()
    return done, sensitivity


@pytest.mark.parametrize(
    ("probabilities", "right", "sign"),
    [
        ([0.7, 0.3], {0}, 1),  # the likely answer is correct: kappa = .21 log(7/3)^2
        ([0.3, 0.7], {0}, 1),  # it is wrong, and correct answers are rare
        (
            [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
            {0},
            -1,
        ),  # the most likely single answer, but p < 1/2
        ([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], {1, 2, 3, 4, 5, 6}, -1),  # unlikely, but p > 1/2
    ],
)
def test_signs_on_a_softmax_table_match_proposition_1(probabilities, right, sign) -> None:
    """For a table dH = -eta sum_a pi_a^2 (log pi_a + H) (A_a - mean A), derived by hand: beta_pos
    lowers A of correct answers by beta log(p/(1-p)), beta_neg that of wrong ones."""
    done, sensitivity = table_trial(probabilities, right)
    assert math.copysign(1, done.kappa) == sign
    p = sum(share for a, share in enumerate(probabilities) if a in right)
    base = done.effects["(0, 0)"].change
    assert base == pytest.approx(-done.lr * 2 * sensitivity, rel=0.02)
    for beta in (0.25, 0.5):
        pos = done.effects[f"({beta:g}, 0)"].change - base
        neg = done.effects[f"(0, {beta:g})"].change - base
        assert pos * sign > 0 > neg * sign
        expected = -done.lr * (((1 - p) / p) ** beta - 1) * sensitivity
        assert pos == pytest.approx(expected, rel=0.05)
        expected = -done.lr * ((p / (1 - p)) ** beta - 1) * sensitivity
        assert neg == pytest.approx(expected, rel=0.05)


def make_trial(kappa: float, lr: float, changes: dict[str, float]) -> Trial:
    effects = {label: StepEffect(change=c, half=c / 2, gain=0.0) for label, c in changes.items()}
    return Trial(kappa=kappa, lr=lr, entropy=1.0, accuracy=0.5, groups=3, effects=effects)


LEANS = {"(0, 0)": 0.0, "(0.5, 0)": 0.5, "(0, 0.5)": -0.5}


def test_predictions_are_linear_in_the_betas_kappa_and_lr() -> None:
    one = make_trial(0.1, 0.02, {})
    assert prediction(one, 0.5) == pytest.approx(0.001)
    assert prediction(one, -1.0) == pytest.approx(-2 * prediction(one, 0.5))
    assert prediction(replace(one, kappa=-0.3), 0.5) == pytest.approx(-3 * prediction(one, 0.5))
    assert prediction(replace(one, lr=0.04), 0.5) == pytest.approx(2 * prediction(one, 0.5))
    assert prediction(one, 0.0) == 0


def test_the_fit_recovers_an_exact_scale() -> None:
    """shift = 3 lr lean kappa exactly, around a common change of -1."""
    trials = []
    for kappa, lr in ((0.1, 0.01), (0.3, 0.02), (0.2, 0.01)):
        changes = {label: -1 + 3 * lr * lean * kappa for label, lean in LEANS.items()}
        trials.append(make_trial(kappa, lr, changes))
    summary = summarise(trials, LEANS)
    assert summary.scale.mean == pytest.approx(3, rel=1e-6)
    assert summary.scale.half_width == pytest.approx(0, abs=1e-6)
    assert summary.explained == pytest.approx(1)
    _, pos, neg = summary.rows
    assert pos.same_sign == neg.same_sign == 3
    assert pos.predicted == pytest.approx(pos.shift.mean)
    assert neg.predicted == pytest.approx(-pos.shift.mean)
    assert pos.halved == pytest.approx(0.5)


def test_the_scale_and_its_interval_by_hand() -> None:
    """x = 1, 2; y = 1, 3: C = 7/5; x (y - C x) = -.4, .4; se = sqrt(2 * .32) / 5; t(1) = 12.706."""
    scale, explained = fit([[1.0], [2.0]], [[1.0], [3.0]])
    assert scale.mean == pytest.approx(1.4)
    assert scale.half_width == pytest.approx(12.7062 * 0.16, rel=1e-4)
    assert explained == pytest.approx(1 - 0.2 / 10)
    scale, explained = fit([[0.0], [0.0]], [[1.0], [3.0]])
    assert math.isnan(scale.mean) and math.isnan(explained)


def test_an_interval_by_hand() -> None:
    """2, 4, 6: s = 2, t(.975, 2) = 4.3027."""
    one = interval([2.0, 4.0, 6.0])
    assert one.mean == 4 and one.half_width == pytest.approx(4.30265 * 2 / 3**0.5, rel=1e-5)


def test_a_sign_counts_only_if_its_interval_excludes_zero() -> None:
    def around(mean: float, half_width: float) -> Interval:
        return Interval(mean=mean, half_width=half_width)

    assert word(around(2, 1), around(3, 1)) == "as predicted"
    assert word(around(-2, 1), around(3, 1)) == "opposite"
    assert word(around(2, 3), around(3, 1)) == "not resolved"
    assert word(around(2, 1), around(1, 3)) == "none predicted"
    assert word(around(2, 1), around(0, 0)) == "none predicted"
    assert word(around(2, 1), None) == "none predicted"


def test_estimators_are_named_or_pairs_of_betas() -> None:
    assert [one.label for one in DEFAULT_ESTIMATORS[:2]] == ["(0, 0)", "(0.25, 0)"]
    assert [one.lean for one in DEFAULT_ESTIMATORS] == [0, 0.25, 0.5, -0.25, -0.5, 0, 0.5]
    assert estimator("ent_increase").lean is None


ARGUMENTS = ("--batches", "2", "--prompts", "4", "--group-size", "4", "--step-size", "1e-3")


def test_probing_a_checkpoint_does_not_change_it(finished: Path, tmp_path: Path, capsys) -> None:
    checkpoint = finished / "checkpoints" / "latest"
    before = (checkpoint / "model.safetensors").read_bytes()
    out = tmp_path / "new" / "probe"
    command = [
        str(checkpoint),
        *ARGUMENTS,
        "--estimators",
        ".5,0",
        "grpo_sample_std",
        "--out",
        str(out),
    ]
    assert probe.main(command) == 0
    assert "batch 2/2" in capsys.readouterr().out
    written = json.loads((out / "probe.json").read_text())
    assert list(written["trials"][0]["effects"]) == ["(0, 0)", "(0.5, 0)", "grpo_sample_std"]
    assert written["summary"]["rows"][2]["raw"] is None
    assert (out / "probe.png").read_bytes()[:4] == b"\x89PNG"
    assert (checkpoint / "model.safetensors").read_bytes() == before


def test_a_plain_model_folder_is_probed_with_a_config(model_folder, config_file, capsys) -> None:
    assert probe.main([str(model_folder), "--config", str(config_file), *ARGUMENTS]) == 0
    assert "the reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["no/such"], "'no/such' is neither a local folder nor"),
        (["{model}"], "--config must name the training config"),
        (["{model}", "--config", "no_such"], "config 'no_such'"),
        (["{ckpt}", "--batches", "1"], "--batches must be from 2 to 10000 (got 1)"),
        (["{ckpt}", "--group-size", "1"], "--group-size must be from 2 to 10000 (got 1)"),
        (["{ckpt}", "--step-size", "0"], "--step-size must be from 1e-07 to 0.1 (got 0)"),
        (["{ckpt}", "--step-size", "nan"], "(got nan)"),
        (["{ckpt}", "--estimators", "grpo2"], "'grpo2' is neither two betas"),
        (["{ckpt}", "--estimators", ".5,-1"], "'.5,-1' is neither two betas"),
        (["{ckpt}", "--estimators", "asym"], "advantage.beta_pos is missing"),
        (["{ckpt}", "--data", "no/such.jsonl"], "no/such.jsonl does not exist"),
        (["{ckpt}", "--prompts", "5"], "--prompts 5 requires 10 problems"),
        (["{ckpt}", "--out", "{file}"], "cannot be created"),
    ],
)
def test_invalid_input_prints_one_sentence_and_exits_2(
    finished: Path, model_folder, config_file, capsys, arguments: list[str], part: str
) -> None:
    names = {
        "model": model_folder,
        "ckpt": finished / "checkpoints" / "latest",
        "file": config_file,
    }
    assert probe.main([argument.format(**names) for argument in arguments]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and part in errors[0]


def test_nan_is_null_in_json() -> None:
    tree = probe_report.without_nan({"a": (math.nan, 1.0), "b": {"c": math.inf}})
    assert tree == {"a": [None, 1.0], "b": {"c": None}}


def test_the_page_has_the_table_of_every_saved_probe(tmp_path: Path) -> None:
    changes = ({label: -1 + 3e-3 * k * lean for label, lean in LEANS.items()} for k in (1, 2, 3))
    trials = [make_trial(0.1, 0.01, one) for one in changes]
    settings = {"ckpt": "pocket:0", "data": "pocket_train", "out": tmp_path / "probe"}
    settings |= {"batches": 3, "prompts": 32, "group_size": 8, "seed": 0}
    probe_report.make_folder(tmp_path / "probe")
    probe_report.report(trials, LEANS, settings, Console(quiet=True))
    results = tmp_path / "docs" / "results"
    results.mkdir(parents=True)
    saved = (tmp_path / "probe" / "probe.json").read_text()
    (results / "probe-one.json").write_text(saved)
    (results / "probe-two.json").write_text(saved)
    page, figure = probe_report.write_page(tmp_path / "docs")
    text = " ".join(page.read_text().split())
    # the shift of (0.5, 0) is 1.5e-3 k for k = 1, 2, 3: mean 3, s 1.5, half width 4.3027 x .866
    assert text.count("| (0.5, 0) | +3.000 ± 3.726 |") == 2
    assert "positive on `one` (+0.100), positive on `two` (+0.100)" in text
    assert figure.stat().st_size > 1000
    with pytest.raises(UserError, match=r"has no probe-\*\.json"):
        probe_report.write_page(tmp_path)
