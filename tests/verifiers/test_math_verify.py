"""The math_verify verifier: the library's verdicts, in the pool, with our deadline and sandbox."""

import json
import time
import warnings

import pytest

from asymrl.verifiers import Verifier, make, math_verify, unreadable
from asymrl.verifiers.pool import Pool


@pytest.fixture(scope="module")
def verifier():
    with make("math_verify", workers=1, timeout=60.0) as pool:
        yield pool


def reason(verifier: Verifier, gold: str, text: str) -> str:
    return verifier.submit(gold, text).result().reason


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("1/2", r"so \boxed{0.5}", "correct"),
        (r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{1}{\sqrt{2}}}", "correct"),
        (r"\{1, 2\}", r"\boxed{\{2, 1\}}", "correct"),
        ("x^2-1", r"\boxed{(x-1)(x+1)}", "correct"),
        ("7", r"\boxed{8}", "wrong"),
        ("(1, 2)", r"\boxed{(2, 1)}", "wrong"),
        ("7", "I do not know", "no_answer"),
        ("7", "", "no_answer"),
        ("7", r"\boxed{\frac{}{}}", "unparseable"),
        ("", r"\boxed{7}", "unparseable"),
    ],
)
def test_each_kind_of_response_gets_its_reason(verifier, gold, text, expected):
    assert reason(verifier, gold, text) == expected


def test_the_verdict_has_the_answer_that_the_library_extracts(verifier):
    assert verifier.submit("7", r"so \boxed{\frac{8}{1}}").result().answer == r"\frac{8}{1}"


def test_settings_are_ignored_because_the_library_has_its_own_rules():
    cases = [
        ("7", "the final answer is $7$. I hope it is correct.", "correct"),  # unboxed
        ("7", r"<think>\boxed{7}</think>", "correct"),  # thinking
        ("3.14", r"\boxed{3.1400001}", "correct"),  # rounds to 6 digits
        ("3.14", r"\boxed{3.2}", "wrong"),
    ]
    for gold, text, expected in cases:
        for settings in ({}, {"unboxed": True, "thinking": True, "tolerance": 0.5}):
            assert math_verify.verify(gold, text, **settings)[0] == expected, (text, settings)


def test_golds_that_the_library_cannot_use_are_reported(verifier):
    assert unreadable(verifier, ["7", "", r"\frac12"]) == [1]


@pytest.mark.slow
def test_a_hang_in_the_library_ends_at_the_deadline_and_the_next_answer_is_verified():
    with make("math_verify", workers=1, timeout=3.0) as pool:
        assert reason(pool, "7", r"\boxed{7}") == "correct"
        start = time.monotonic()
        assert reason(pool, "7", r"\boxed{9^{9^{9^{9^{9}}}}-1}") == "timeout"
        assert time.monotonic() - start < 30
        assert reason(pool, "7", r"\boxed{8}") == "wrong"


def test_the_library_leaves_the_alarm_signal_of_the_worker_alone(tmp_path, monkeypatch):
    (tmp_path / "timed_verifier.py").write_text(
        """
import signal
from asymrl.verifiers import math_verify

def verify(gold, text):
    before = signal.getitimer(signal.ITIMER_REAL)[0]
    math_verify.verify(gold, text)
    after = signal.getitimer(signal.ITIMER_REAL)[0]
    return "correct" if before > after > 0 else "wrong", None
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Pool("timed_verifier", workers=1, timeout=60.0) as pool:
        assert reason(pool, "x+1", r"\boxed{1+x}") == "correct"


def test_the_sandbox_blocks_files_and_processes(verifier, tmp_path):
    canary = tmp_path / "canary"
    for attack in (
        f"__import__('os').system('touch {canary}')",
        f"open('{canary}', 'w')",
        f"(lambda: open('{canary}', 'w'))()",
    ):
        for text in (f"\\boxed{{{attack}}}", f"the final answer is ${attack}$. I hope"):
            assert reason(verifier, "7", text) != "correct"
            verifier.check(attack).result()
    assert not canary.exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.long)], ids=["some", "all"])
def test_labelled_cases_get_the_rewards_of_trl(shared_data, verifier, step):
    """Without hostile cases, where timeouts decide."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.rewards.accuracy_rewards import accuracy_reward
    with (shared_data / "verifier_cases.jsonl").open(encoding="utf-8") as lines:
        cases = [json.loads(line) for line in lines]
    cases = [case for case in cases if case["tier"] != "hostile"][::step]
    futures = [verifier.submit(case["gold"], case["model_output"]) for case in cases]
    rewards = accuracy_reward(
        [[{"role": "assistant", "content": case["model_output"]}] for case in cases],
        [gold if "$" in (gold := case["gold"]) else f"${gold}$" for case in cases],
    )
    for case, future, reward in zip(cases, futures, rewards, strict=True):
        verdict = future.result()
        expected = "unparseable" if reward is None else float(reward)
        assert (verdict.reason if reward is None else verdict.reward) == expected, case["id"]
