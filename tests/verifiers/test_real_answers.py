"""The verifier on real golds and labelled cases; needs the shared data."""

import json
import random

import pytest

from asymrl.verifiers import Verifier, make, unreadable
from asymrl.verifiers.__main__ import verify_rows
from tests.helpers.answer_pairs import SETS, changes, golds, mutated, rewrites
from tests.helpers.process_memory import MemoryMonitor, resident_bytes

pytestmark = pytest.mark.slow
DEADLINE = 10.0


@pytest.fixture(scope="module")
def verifier():
    with make("math", workers=2, timeout=DEADLINE) as pool:
        yield pool


def reasons_of(verifier: Verifier, pairs: list[tuple[str, str]]) -> list[str]:
    futures = [verifier.submit(gold, f"\\boxed{{{answer}}}") for gold, answer in pairs]
    return [future.result().reason for future in futures]


def test_labelled_cases_get_the_labelled_verdicts(shared_data, verifier):
    with (shared_data / "verifier_cases.jsonl").open(encoding="utf-8") as lines:
        cases = [json.loads(line) for line in lines]
    rows = [case | {"response": case["model_output"]} for case in cases]
    right: dict[str, list[bool]] = {}
    for case, verdict in zip(cases, verify_rows(rows, verifier), strict=True):
        right.setdefault(case["tier"], []).append((verdict.reward == 1) == case["expected"])
        assert case["expected"] or verdict.reward == 0, (case["id"], "accepted wrongly")
        assert verdict.reason not in ("timeout", "crashed"), case["id"]
    shares = {tier: sum(values) / len(values) for tier, values in right.items()}
    assert shares["core"] >= 0.995
    assert shares["hard"] >= 0.85
    assert shares["policy"] == shares["hostile"] == 1


def test_at_most_half_a_percent_of_golds_do_not_parse(shared_data, verifier):
    all_golds = [gold for _, gold in golds(shared_data, f"{SETS} aime_1983_2023 olymmath_en")]
    assert len(unreadable(verifier, all_golds)) <= 0.005 * len(all_golds)


def sampled(shared_data, size: int) -> list[str]:
    """Random golds that are not integers, and the first 100 of all golds."""
    all_golds = [gold for _, gold in golds(shared_data)]
    others = [gold for gold in all_golds if not gold.lstrip("-").isdigit()]
    return random.Random(7).sample(others, min(size, len(others))) + all_golds[:100]


@pytest.mark.parametrize(
    "size", [400, pytest.param(10**6, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_golds_accept_rewrites_and_reject_near_misses(shared_data, verifier, size):
    chosen = (
        [gold for _, gold in golds(shared_data)] if size == 10**6 else sampled(shared_data, size)
    )
    unparsed = set(unreadable(verifier, chosen))
    chosen = [gold for index, gold in enumerate(chosen) if index not in unparsed]
    alike = [(gold, other) for gold in chosen for other in rewrites(gold)]
    unlike = [(gold, other) for gold in chosen for other in changes(gold)]
    assert len(unlike) >= (10_000 if size == 10**6 else 1_000)
    reasons = reasons_of(verifier, unlike)
    wrongly = [p for p, reason in zip(unlike, reasons, strict=True) if reason == "correct"]
    assert not wrongly
    reasons = reasons_of(verifier, alike)
    rejected = [p for p, reason in zip(alike, reasons, strict=True) if reason != "correct"]
    assert len(rejected) <= 0.0005 * len(alike), rejected


def test_ten_thousand_mutations_get_verdicts_and_the_next_answers_too(shared_data, verifier):
    source = random.Random(11)
    originals = [gold for _, gold in golds(shared_data) if len(gold) < 300]
    chosen = [source.choice(originals) for _ in range(10_000)]
    reasons_of(verifier, [("x+1", "1+x")] * 10)
    before = resident_bytes("self")
    with MemoryMonitor() as monitor:
        pairs = [(gold, mutated(gold, originals, source)) for gold in chosen]
        reasons = reasons_of(verifier, pairs)
    assert len(reasons) == 10_000
    assert sum(reason in ("timeout", "crashed") for reason in reasons) == 0
    batch = [("1/2", "0.5"), ("x+1", "x-1"), ("(1,2)", "(1,2)")]
    assert reasons_of(verifier, batch) == ["correct", "wrong", "correct"]
    if monitor.available:
        assert 0 < monitor.largest_child < 400 << 20  # the cap is 2 GiB
        assert resident_bytes("self") - before < 100 << 20
