"""VLLMEngine with the real vLLM and models whose weights lie in other places: one engine a time."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen3Config
from transformers import Qwen2ForCausalLM as Qwen2
from transformers import Qwen3ForCausalLM as Qwen3

from asymrl.engines.rollout import fingerprint
from asymrl.engines.vllm import VLLMEngine
from tests.helpers.vllm import MODEL, NEEDS_VLLM, SMALL, fingerprints, named, opened

pytestmark = NEEDS_VLLM


def scrambled(model):
    """With random biases too, which are 0 in a fresh model."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


UNTIED = scrambled(Qwen3(Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=False)))
BIASED = scrambled(Qwen2(Qwen2Config(**SMALL, tie_word_embeddings=True)))
CASES = {
    "tied": (MODEL, torch.float32),
    "untied": (UNTIED, torch.float32),
    "biased": (BIASED, torch.bfloat16),
}


@pytest.fixture(scope="module", params=CASES)
def opened_with_model(request, tmp_path_factory) -> Iterator[tuple[VLLMEngine, Any]]:
    """One engine after the other."""
    model, dtype = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    for engine in opened(folder, dtype):
        yield engine, model


def test_a_changed_tensor_changes_only_its_own_fingerprint(opened_with_model) -> None:
    engine, model = opened_with_model
    tensors = named(model)
    engine.load_weights(iter(tensors.items()))
    expected = fingerprints(model, engine.weight_dtype)
    assert engine.fingerprint(list(tensors)) == expected
    for name, tensor in tensors.items():
        changed = tensor.clone()
        changed[-1] += 1
        engine.load_weights(iter((tensors | {name: changed}).items()))
        actual = engine.fingerprint(list(tensors))
        assert {n for n in tensors if actual[n] != expected[n]} == {name}
        assert actual[name] == fingerprint(changed.to(engine.weight_dtype))
