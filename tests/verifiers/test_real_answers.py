"""The verifier on real golds and labelled cases, where the shared data are."""

import json
import random

import pytest

from asymrl.verifiers import Verifier, make, unreadable
from asymrl.verifiers.__main__ import judge
from tests.helpers.answer_pairs import SETS, changes, golds, mutated, rewrites
from tests.helpers.process_memory import Watch, resident

DEADLINE = 10.0


@pytest.fixture(scope="module")
def verifier():
    with make("math", workers=2, timeout=DEADLINE) as made:
        yield made


def judged(verifier: Verifier, pairs: list[tuple[str, str]]) -> list[str]:
    futures = [verifier.submit(gold, f"\\boxed{{{answer}}}") for gold, answer in pairs]
    return [future.result().reason for future in futures]


def test_labelled_cases_are_judged_as_labelled(shared_data, verifier):
    with (shared_data / "verifier_cases.jsonl").open(encoding="utf-8") as lines:
        cases = [json.loads(line) for line in lines]
    rows = [case | {"response": case["model_output"]} for case in cases]
    right: dict[str, list[bool]] = {}
    for case, verdict in zip(cases, judge(rows, verifier), strict=True):
        right.setdefault(case["tier"], []).append((verdict.reward == 1) == case["expected"])
        assert case["expected"] or verdict.reward == 0, (case["id"], "accepted wrongly")
        assert verdict.reason not in ("timeout", "crashed"), case["id"]
    shares = {tier: sum(values) / len(values) for tier, values in right.items()}
    assert shares["core"] >= 0.995
    assert shares["hard"] >= 0.85
    assert shares["policy"] == shares["hostile"] == 1


def test_golds_parse_but_for_a_few(shared_data, verifier):
    found = [gold for _, gold in golds(shared_data, f"{SETS} aime_1983_2023 olymmath_en")]
    assert len(unreadable(verifier, found)) <= 0.005 * len(found)


def sampled(shared_data, size: int) -> list[str]:
    """Golds that are not plain whole numbers, but for some."""
    found = [gold for _, gold in golds(shared_data)]
    telling = [gold for gold in found if not gold.lstrip("-").isdigit()]
    return random.Random(7).sample(telling, min(size, len(telling))) + found[:100]


@pytest.mark.parametrize(
    "size", [400, pytest.param(10**6, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_golds_accept_their_rewrites_and_reject_what_is_not_them(shared_data, verifier, size):
    chosen = (
        [gold for _, gold in golds(shared_data)] if size == 10**6 else sampled(shared_data, size)
    )
    lost = set(unreadable(verifier, chosen))
    chosen = [gold for index, gold in enumerate(chosen) if index not in lost]
    alike = [(gold, other) for gold in chosen for other in rewrites(gold)]
    unlike = [(gold, other) for gold in chosen for other in changes(gold)]
    assert len(unlike) >= (10_000 if size == 10**6 else 1_000)
    reasons = judged(verifier, unlike)
    wrongly = [p for p, reason in zip(unlike, reasons, strict=True) if reason == "correct"]
    assert not wrongly
    reasons = judged(verifier, alike)
    refused = [p for p, reason in zip(alike, reasons, strict=True) if reason != "correct"]
    assert len(refused) <= 0.0005 * len(alike), refused


def test_ten_thousand_mutations_all_get_a_verdict_and_harm_none_after_them(shared_data, verifier):
    source = random.Random(11)
    originals = [gold for _, gold in golds(shared_data) if len(gold) < 300]
    chosen = [source.choice(originals) for _ in range(10_000)]
    judged(verifier, [("x+1", "1+x")] * 10)
    before = resident("self")
    with Watch() as watch:
        pairs = [(gold, mutated(gold, originals, source)) for gold in chosen]
        reasons = judged(verifier, pairs)
    assert len(reasons) == 10_000
    assert sum(reason in ("timeout", "crashed") for reason in reasons) == 0
    batch = [("1/2", "0.5"), ("x+1", "x-1"), ("(1,2)", "(1,2)")]
    assert judged(verifier, batch) == ["correct", "wrong", "correct"]
    if watch.measures:
        assert 0 < watch.largest < 400 << 20  # the cap is 2 GiB
        assert resident("self") - before < 100 << 20
