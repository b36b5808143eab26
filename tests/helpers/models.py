"""Tiny models with random weights."""

from typing import Any

import torch
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def tiny_model(
    vocabulary: int, stop_id: int, seed: int = 0, layers: int = TINY["num_hidden_layers"]
) -> Qwen3ForCausalLM:
    """A random Qwen3 with grouped-query attention and tied embeddings. Its weights are large, so
    that the distributions of different tokens differ."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = TINY | {"num_hidden_layers": layers}
    config = Qwen3Config(
        vocab_size=vocabulary,
        **sizes,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        initializer_range=0.3,
        eos_token_id=stop_id,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).eval()


def convolving_model(vocabulary: int) -> Lfm2ForCausalLM:
    """A model with a convolution layer, which caches its last states instead of keys and values."""
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=vocabulary,
        **TINY,
        layer_types=["conv", "full_attention"],
    )
    return Lfm2ForCausalLM(config).eval()
