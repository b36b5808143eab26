"""After asynchronous scheduling, as far as a CPU can run it, the engine leaves no batch running."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from asymrl.engines.vllm import VLLMEngine
from tests.helpers.engines import SAMPLING, requests
from tests.helpers.vllm import MODEL, NEEDS_VLLM, assert_logprobs_are_of, named, opened

pytestmark = NEEDS_VLLM


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[VLLMEngine]:
    folder = tmp_path_factory.mktemp("ahead")
    MODEL.save_pretrained(folder)
    for engine in opened(folder):
        engine.load_weights(iter(named(MODEL).items()))
        yield engine


@pytest.fixture
def ahead(engine, monkeypatch) -> Iterator[tuple[VLLMEngine, Any]]:
    """An engine that schedules a batch before it reads the last one, as on a GPU. Uses vLLM's
    pipeline scheduler, because its CPU build has no other that does."""
    core = engine.llm.engine_core.engine_core
    monkeypatch.setattr(core, "batch_queue_size", 2)
    monkeypatch.setattr(core, "batch_queue", deque(maxlen=2))
    monkeypatch.setattr(core, "step_fn", core.step_with_batch_queue)
    yield engine, core
    assert not core.batch_queue


def test_no_batch_is_running_after_the_last_rollout(ahead) -> None:
    engine, core = ahead
    rollouts = list(engine.generate(requests(), SAMPLING))
    assert len(rollouts) == 30 and not core.batch_queue
    assert_logprobs_are_of(MODEL, rollouts, requests())


def test_no_batch_is_running_after_generation_stops_early(ahead) -> None:
    engine, core = ahead
    rollouts = engine.generate(requests(), SAMPLING)
    next(rollouts)
    assert core.batch_queue
    rollouts.close()
    assert not core.batch_queue and not engine.llm.has_unfinished_requests()
    engine.load_weights(iter(named(MODEL).items()))  # fails if a request still holds cache blocks
    assert len(list(engine.generate(requests(), SAMPLING))) == 30
