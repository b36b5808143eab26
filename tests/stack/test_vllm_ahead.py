"""Asynchronous scheduling, as far as a CPU can show it: the engine leaves nothing under way."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from asymrl.engines.vllm import VLLMEngine
from tests.helpers.engines import SAMPLING, requests
from tests.stack import test_vllm as vllm
from tests.stack.test_vllm import MODEL, assert_logprobs_are_of, named

pytestmark = vllm.pytestmark


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[VLLMEngine]:
    folder = tmp_path_factory.mktemp("ahead")
    MODEL.save_pretrained(folder)
    for engine in vllm.opened(folder):
        engine.load_weights(iter(named(MODEL).items()))
        yield engine


@pytest.fixture
def ahead(engine, monkeypatch) -> Iterator[tuple[VLLMEngine, Any]]:
    """A batch is made before the last one was read, as with asynchronous scheduling on a GPU; here
    with the scheduler of pipelines, since vLLM's CPU build has no other that does."""
    core = engine.llm.engine_core.engine_core
    monkeypatch.setattr(core, "batch_queue_size", 2)
    monkeypatch.setattr(core, "batch_queue", deque(maxlen=2))
    monkeypatch.setattr(core, "step_fn", core.step_with_batch_queue)
    yield engine, core
    assert not core.batch_queue


def test_nothing_is_under_way_after_the_last_rollout(ahead) -> None:
    engine, core = ahead
    rollouts = list(engine.generate(requests(), SAMPLING))
    assert len(rollouts) == 30 and not core.batch_queue
    assert_logprobs_are_of(MODEL, rollouts, requests())


def test_nothing_is_under_way_after_a_generation_broken_off(ahead) -> None:
    engine, core = ahead
    rollouts = engine.generate(requests(), SAMPLING)
    next(rollouts)
    assert core.batch_queue
    rollouts.close()
    assert not core.batch_queue and not engine.llm.has_unfinished_requests()
    engine.load_weights(iter(named(MODEL).items()))  # blocks of a request would be refused here
    assert len(list(engine.generate(requests(), SAMPLING))) == 30
