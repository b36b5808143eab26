"""Engines with the real vLLM on a CPU, for the tests of the stack."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from asymrl.engines.distributed import World
from asymrl.engines.vllm import VLLMEngine, open_llm
from tests.helpers.engines import SAMPLING, STOP, VOCABULARY, decode, dense_values, requests
from tests.helpers.models import tiny_model

NEEDS_VLLM = [
    pytest.mark.skipif(
        find_spec("vllm") is None,
        reason="vLLM is not installed: make test installs its CPU build on Linux x86-64",
    ),
    pytest.mark.filterwarnings("ignore:.*reduce_op.*:FutureWarning"),
]

MODEL = tiny_model(VOCABULARY, STOP)


def named(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def make(folder: Path, dtype: torch.dtype, world: World) -> VLLMEngine:
    llm = open_llm(str(folder), world=world, dtype=dtype, max_model_len=256, max_rows=64)
    return VLLMEngine(llm, decode)


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> Iterator[VLLMEngine]:
    """An engine without weights. Shut down explicitly, because its finalizer could otherwise
    destroy the process group of a later test."""
    engine = make(folder, dtype, World())
    assert_not_ready(engine)
    yield engine
    engine.llm.engine_core.shutdown()


def assert_logprobs_are_of(model, rollouts, batch, temperature: float = 1.0) -> None:
    for rollout in rollouts:
        dense, _ = dense_values(model, rollout, batch[rollout.draw - 40], temperature)
        torch.testing.assert_close(torch.tensor(rollout.engine_logprobs), dense, atol=1e-4, rtol=0)


def assert_not_ready(engine: VLLMEngine) -> None:
    for call in (
        lambda: next(engine.generate(requests(), SAMPLING)),
        lambda: engine.fingerprint([]),
    ):
        with pytest.raises(RuntimeError, match="no weights"):
            call()
