"""The memory of a GPU in each phase of a step, with faked counters of CUDA and torch."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from asymrl.config.load import load_config
from asymrl.engines import pretrained
from asymrl.engines.distributed import World
from asymrl.engines.gpu_memory import GIB, PHASES, MemoryMeter, PhaseMemory, over_ranks
from asymrl.engines.memory import CARD_80GB, estimate_by_phase, estimate_one_process
from asymrl.run.tracking import Clock, Tracker
from tests.helpers.policies import policy
from tests.helpers.runs import engine_of, metrics, run_with

WHAT = ("peak", "reserved", "free")


class Card:
    """The counters of a card, in GiB, which a test sets."""

    gib, in_use, reserved, most_reserved = 80.0, 10.0, 6.0, 6.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def reset() -> None:
            self.most_reserved = self.reserved

        functions: dict[str, Any] = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "get_device_name": lambda device=0: "NVIDIA H100",
            "get_device_properties": lambda device: SimpleNamespace(total_memory=self.gib * GIB),
            "mem_get_info": lambda: (int((self.gib - self.in_use) * GIB), int(self.gib * GIB)),
            "memory_reserved": lambda: int(self.reserved * GIB),
            "max_memory_reserved": lambda: int(self.most_reserved * GIB),
            "reset_peak_memory_stats": reset,
        }
        for name, function in functions.items():
            monkeypatch.setattr(torch.cuda, name, function)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    card.install(monkeypatch)
    return card


def test_a_peak_is_what_was_in_use_plus_what_torch_reserved_since(card: Card) -> None:
    """vLLM sleeps: torch counts its 50 GiB as reserved, CUDA does not."""
    meter = MemoryMeter(World(), {"update": 40.0})
    card.in_use, card.reserved, card.most_reserved = 12.0, 60.0, 70.0
    with Clock(Tracker(), meter)("update"):
        card.most_reserved = 81.0  # 21 GiB of activations,
        card.reserved, card.in_use = 65.0, 17.0  # of which 16 were given back
    assert meter.metrics() == {
        "perf/gpu_memory_reserved/update": 81,
        "perf/gpu_memory_peak/update": 12 + 81 - 60,
        "perf/gpu_memory_free/update": 80 - 17,
        "perf/gpu_memory_estimate/update": 40,
    }
    assert meter.metrics() == {}


def test_memory_that_torch_does_not_reserve_counts_at_the_end(card: Card) -> None:
    """vLLM wakes: CUDA maps its memory again."""
    meter = MemoryMeter(World(), {})
    with meter("sync"):
        card.in_use = 66.0
    assert meter.metrics()["perf/gpu_memory_peak/sync"] == 66


def test_a_step_has_the_worst_of_all_ranks_and_times() -> None:
    one = [PhaseMemory(reserved=3, peak=5, free=9), PhaseMemory(reserved=2, peak=7, free=8)]
    other = [PhaseMemory(reserved=4, peak=6, free=7), PhaseMemory(reserved=1, peak=1, free=10)]
    assert over_ranks([{"update": one}, {"update": other}], {"score": 1.0}) == {
        "perf/gpu_memory_reserved/update": 4,
        "perf/gpu_memory_peak/update": 7,
        "perf/gpu_memory_free/update": 7,
    }


def test_without_a_gpu_nothing_is_measured(finished: Path) -> None:
    meter = MemoryMeter(World(), {"update": 1.0})
    with meter("update"):
        pass
    assert meter.metrics() == {}
    assert not [name for row in metrics(finished) for name in row if "gpu_memory" in name]


def test_phases_are_estimated(card: Card) -> None:
    """On 4 cards, the numbers of docs/memory.md; one process, all of its items and CUDA's 1.5."""
    card.gib = CARD_80GB
    several = estimate_by_phase(load_config("qwen3_4b"), 4)
    expected = {"generate": 70.78, "score": 38.82, "update": 38.82, "sync": 70.78}
    assert several == pytest.approx(expected, abs=0.006)
    one = load_config("qwen3_4b", ["rollout.engine=hf", "policy.backend=local"])
    whole = sum(estimate_one_process(one).values()) / GIB + 1.5
    assert estimate_by_phase(one, 1) == pytest.approx(dict.fromkeys(PHASES, whole))
    assert estimate_by_phase(load_config("qwen3_4b", ["model.shape=null"]), 4) == {}


def test_a_run_logs_the_memory_of_its_phases_and_compares_it_once_with_the_estimate(
    config_file: Path, tmp_path: Path, card: Card, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine and the policy stay on the CPU."""
    config = load_config(str(config_file))
    with pytest.MonkeyPatch.context() as no_gpu:
        no_gpu.setattr(torch.cuda, "is_available", lambda: False)
        model = pretrained.load_model(config.model, torch.float32)
        parts: dict[str, Any] = {
            "engine": engine_of(config_file),
            "policy": policy(model, temperature=1.0),
        }
        shape = pretrained.read_shape(config.model, Path(config.model.path))
    assert shape
    parts["engine"].exact_logprobs = False  # so that the policy scores
    settings = ["steps=2", f"model.shape={shape.model_dump_json()}"]
    settings += ["rollout.engine=hf", "policy.backend=local"]
    folder = run_with(config_file, tmp_path / "run", *settings, **parts)
    first, second = metrics(folder)[1:]
    estimate = estimate_by_phase(load_config(str(config_file), settings), 1)
    for phase in PHASES:
        assert [first[f"perf/gpu_memory_{what}/{phase}"] for what in WHAT] == [10, 6, 70]
        assert first[f"perf/gpu_memory_estimate/{phase}"] == estimate[phase]
        assert second[f"perf/gpu_memory_peak/{phase}"] == 10
    (line,) = re.findall("GPU memory.*", capsys.readouterr().out)
    estimated = f"the estimate was {estimate['generate']:.1f} GiB"
    assert line == f"GPU memory in step 1: at most 10.0 GiB in use, in generate; {estimated}"
