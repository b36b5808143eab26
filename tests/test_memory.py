"""The dry run's estimate against counted parameters."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from asymrl import config as configs
from asymrl.memory import count_parameters, estimate

TYPES = {"qwen3_4b": "qwen3", "qwen2.5_math_1.5b": "qwen2", "qwen2.5_7b": "qwen2"}


@pytest.mark.parametrize("name", TYPES)
def test_the_parameter_count_is_the_models(name: str) -> None:
    shape = configs.load(name).model.shape
    assert shape
    config = AutoConfig.for_model(
        TYPES[name],
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counted = sum(p.numel() for p in model.parameters())
    assert count_parameters(shape) == pytest.approx(counted, rel=1e-3)


def test_longer_responses_need_more_cache_and_more_tokens_more_activations() -> None:
    base = estimate(configs.load("qwen3_4b"))
    longer = estimate(configs.load("qwen3_4b", ["rollout.max_tokens=9216"]))
    wider = estimate(configs.load("qwen3_4b", ["policy.token_budget=32768"]))
    assert longer.kv_cache == 2 * base.kv_cache
    assert wider.activations == 2 * base.activations
    assert base.policy == 16 * base.parameters
