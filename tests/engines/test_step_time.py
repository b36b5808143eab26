"""The estimated time of a step: sums by hand, and what must hold for any sizes."""

import math
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asymrl.config.load import load_config
from asymrl.config.schema import Config
from asymrl.engines import memory, step_time
from asymrl.engines.flops import Work
from asymrl.engines.step_time import H100, KNOWN, Machine, StepTime, estimate_step, find_card
from benchmarks import scale
from tests.helpers.paths import ROOT

QWEN3_4B = load_config("qwen3_4b")
COMPUTED = ("score", "update")
SIZES = st.fixed_dictionaries(
    {
        "prompts": st.sampled_from([64, 128, 192, 512]),
        "group_size": st.integers(2, 32),
        "max_tokens": st.integers(64, 16_384),
    }
)


def on(gpus: int, nodes: int = 1, **changes: Any) -> Machine:
    made = Machine(card=H100, gib=memory.CARD_80GB, gpus=gpus, nodes=nodes)
    return Machine(**{**{n: getattr(made, n) for n in ("card", "gib", "gpus", "nodes")}, **changes})


def sized(rollout: dict[str, int], config: Config = QWEN3_4B) -> Config:
    return config.model_copy(update={"rollout": config.rollout.model_copy(update=rollout)})


def computing(step: StepTime) -> float:
    return sum(step.phases[phase]["computing"] for phase in COMPUTED)


def test_the_work_of_a_shape_is_that_of_the_model() -> None:
    """Qwen3-4B by hand: 36 layers, width 2560, 32 heads of 128, 8 key heads, an MLP of 9728."""
    layer = 2560 * 128 * (2 * 32 + 2 * 8) + 3 * 2560 * 9728
    assert step_time.work_of_shape(QWEN3_4B) == Work(
        matrices=36 * layer, attention=36 * 32 * 128, head=151_936 * 2560
    )


def test_with_lora_the_frozen_matrices_need_no_gradient_of_their_own() -> None:
    """So their backward pass costs one forward pass less."""
    lora, row = load_config("qwen3_1.7b_lora"), step_time.torch.tensor([1000.0])
    work = step_time.work_of_shape(lora)
    forward = step_time.pass_flops(lora, row, row)
    frozen = 2 * 1000 * (work.frozen_matrices + work.frozen_head)
    assert work.matrices == work.frozen_matrices + memory.count_adapters(lora)
    assert step_time.update_flops(lora, row, row) == pytest.approx(4 * forward - frozen)


def test_a_score_pass_by_hand() -> None:
    """On one GPU: FLOPs / speed; 1,024 rows of 128 + 1,024 tokens of half a micro-batch."""
    work, rows = step_time.work_of_shape(QWEN3_4B), 1024
    lengths, responses = step_time.typical_rows(QWEN3_4B)
    tokens, pairs = lengths.mean().item(), (lengths * (lengths + 1) / 2).mean().item()
    flops = 2 * (work.matrices * tokens + work.head * responses.mean().item())
    flops += 4 * work.attention * pairs
    (phase,) = [step_time.score(QWEN3_4B, on(1), rows)]
    assert tokens == pytest.approx(128 + 1024, rel=1e-3)
    assert phase["computing"] == pytest.approx(1.1 * rows * flops / (989e12 * 0.33))
    assert phase["communication"] == 0


def test_one_decoded_token_by_hand() -> None:
    """Qwen3-4B, 100 responses with 1,000 tokens: 8 GB of weights and 100 x 1,000 x 147,456 bytes of
    the cache at 80% of 3.35 TB/s, and 2 ms."""
    seconds = dict(step_time.decode(QWEN3_4B, on(4), 100, 1000))
    speed = 0.8 * 3.35e12
    assert seconds["reading the weights"] == pytest.approx(2 * 4_022_458_880 / speed)
    assert seconds["reading the KV cache"] == pytest.approx(100 * 1000 * 147_456 / speed)
    assert seconds["steps of vLLM itself"] == 0.002


def test_a_large_batch_of_short_responses_is_bound_by_computing() -> None:
    seconds = dict(step_time.decode(QWEN3_4B, on(4), 5000, 1))
    assert seconds.keys() == {"computing", "steps of vLLM itself"}


def test_mean_and_longest_of_the_assumed_lengths() -> None:
    _, responses = step_time.typical_rows(QWEN3_4B)
    assert responses.mean().item() == pytest.approx(0.25 * 4096, rel=1e-3)
    assert responses.max().item() == pytest.approx(4096, rel=0.02)


def test_the_tail_begins_when_three_quarters_have_ended() -> None:
    """At .255 log 4 = .35 of max_tokens where all responses run at once, so it has most tokens of
    the longest response, but fewer responses at a time, so less than that of the time."""
    step = estimate_step(QWEN3_4B, on(4))
    assert 0.4 < step.tail / step.by_phase["generate"] < 0.65


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES, gpus=st.sampled_from([1, 2, 4, 8]))
def test_more_gpus_are_never_slower_where_they_compute(sizes: dict[str, int], gpus: int) -> None:
    few, many = (estimate_step(sized(sizes), on(n)) for n in (gpus, 2 * gpus))
    assert computing(many) == pytest.approx(computing(few) / 2)
    assert many.by_phase["generate"] <= few.by_phase["generate"] * 1.0001
    for step in (few, many):
        assert all(math.isfinite(x) and x >= 0 for x in step.by_phase.values())
        assert 0 <= step.tail <= step.by_phase["generate"] * 1.0001


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES, gpus=st.sampled_from([1, 4, 8]))
def test_twice_the_rollouts_take_twice_the_computing(sizes: dict[str, int], gpus: int) -> None:
    """And at most twice the generation, because a larger batch reads the weights as often."""
    double = sizes | {"group_size": 2 * sizes["group_size"]}
    one, two = (estimate_step(sized(rollout), on(gpus)) for rollout in (sizes, double))
    assert computing(two) == pytest.approx(2 * computing(one))
    ratio = two.by_phase["generate"] / one.by_phase["generate"]
    assert 1 <= ratio <= 2.05
    assert two.tokens == 2 * one.tokens


@settings(deadline=None, max_examples=20)
@given(sizes=SIZES)
def test_longer_responses_take_at_least_their_share_longer(sizes: dict[str, int]) -> None:
    """About twice for twice the length, and more where attention and cache count; prompts of 128
    tokens stay as they are."""
    sizes = sizes | {"max_tokens": max(1024, sizes["max_tokens"])}
    long = sizes | {"max_tokens": 2 * sizes["max_tokens"]}
    one, two = (estimate_step(sized(rollout), on(4)) for rollout in (sizes, long))
    assert two.by_phase["generate"] >= 1.9 * one.by_phase["generate"]
    assert computing(two) >= 1.6 * computing(one)


def test_what_costs_more_and_what_costs_less() -> None:
    def step(*overrides: str, machine: Machine | None = None) -> dict[str, float]:
        return estimate_step(load_config("qwen3_4b", [*overrides]), machine or on(8)).by_phase

    plain = step()
    assert step("policy.gradient_checkpointing=false")["update"] < plain["update"]
    assert step("loss.kl_coef=0.1")["score"] == pytest.approx(2 * plain["score"], rel=0.01)
    assert step("optim.epochs=2")["update"] == pytest.approx(2 * plain["update"], rel=0.01)
    assert step("checkpoint.every=20")["save"] == plain["save"] / 2
    assert step("policy.offload_optimizer=true")["optimizer"] > 10 * plain["optimizer"]
    waits = step("policy.offload_during_rollouts=true")["optimizer"]
    assert waits - plain["optimizer"] == pytest.approx(2 * 12 * 4_022_458_880 / 8 / (0.7 * 64e9))
    draws = step("rollout.dynamic_sampling={}")
    assert draws["generate"] > 1.2 * plain["generate"]
    assert draws["update"] == pytest.approx(2 * plain["update"], rel=0.05)
    two_nodes = step(machine=on(8, nodes=2))
    assert two_nodes["update"] > plain["update"] and two_nodes["sync"] > plain["sync"]


def test_a_slow_link_makes_communication_the_bottleneck() -> None:
    slow = step_time.Card(name="H100", memory=1e15, link=1e9, host=1e9)
    step = estimate_step(QWEN3_4B, on(4, card=slow))
    assert step.bottleneck == "the update (communication)"


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA GH200 480GB", None),
        ("Tesla T4", None),
    ],
)
def test_cards_are_known_by_their_cuda_name(name: str, card: str | None) -> None:
    found = find_card(name)
    assert (found.name if found else None) == card
    assert all(x.peak > 1e14 for x in KNOWN)


def test_the_line_is_for_this_machine_if_it_has_gpus_and_the_run_fits() -> None:
    with patch.object(step_time, "card_here", lambda: H100):
        (line,) = step_time.describe(QWEN3_4B, 4, 79.2)
        assert line.startswith(
            "step time (estimate; nothing ran on a GPU), if responses have 1,024"
        )
        assert " on 4 x H100: generate " in line and " on 8" not in line
        assert step_time.describe(QWEN3_4B, 1, 79.2) == []
    with patch.object(step_time, "card_here", lambda: None):
        assert step_time.describe(QWEN3_4B, 4, 79.2) == []
    (line,) = step_time.describe(QWEN3_4B, 0, 0.0)
    assert " on 2 x H100: " in line and line.endswith(" on 8")
    (line,) = step_time.describe(load_config("qwen3_1.7b_lora"), 0, 0.0)
    assert " on 1 x RTX 4090: " in line
    assert step_time.describe(load_config("pocket"), 0, 0.0) == []


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (0.04, "0"),
        (0.57, "0.6"),
        (1.0, "1"),
        (8.66, "8.7"),
        (66.4, "66"),
        (15_960, "16,000"),
    ],
)
def test_two_digits(number: float, text: str) -> None:
    assert step_time.rounded(number) == text


def test_the_page_is_what_the_code_gives() -> None:
    """`python -m benchmarks.scale` writes it."""
    assert (ROOT / scale.PAGE).read_text() == scale.page()
