"""A local folder or a Hugging Face id -> tokenizer, causal LM, stop ids.

Knows transformers; nothing of training. What a base config says of the model's shape is checked
against the model's own config here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from asymrl import pocket
from asymrl.schema import Model, Shape
from asymrl.types import UserError

POCKET = "pocket"
transformers_logging.disable_progress_bar()  # its bars and the live progress line do not mix


def set_threads(threads: int) -> None:
    """CPU threads; 0 leaves torch's own choice."""
    if threads:
        torch.set_num_threads(threads)


def locate(path: str) -> str:
    """`pocket` is the project's own small policy, made on first use; all else stays as it is."""
    return str(pocket.ready() / "policy") if path == POCKET else path


def load_tokenizer(model: Model) -> Any:
    return from_hub(AutoTokenizer.from_pretrained, model)


def load_model(model: Model, dtype: torch.dtype, device: str | None = None) -> Any:
    """The causal LM in eval mode, by default on the GPU where there is one."""
    if model.shape:
        check_shape(model.shape, from_hub(AutoConfig.from_pretrained, model), model.path)
    print(f"loading {model.path}", flush=True)
    load = AutoModelForCausalLM.from_pretrained
    loaded = from_hub(load, model, dtype=dtype, attn_implementation="sdpa")
    return loaded.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def default_dtype() -> torch.dtype:
    """bf16 on a GPU, fp32 on a CPU, where bf16 is slower."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def from_hub(load: Any, model: Model, **kwargs: Any) -> Any:
    path, located = model.path, locate(model.path)
    kwargs |= {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        return load(located, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:160]
        if Path(located).is_dir():
            raise UserError(f"model folder {located} cannot be loaded: {cause}") from None
        raise UserError(
            f"model {path!r} is neither a local folder nor a model that the Hugging Face hub gave "
            f"({cause})"
        ) from None


def check_shape(shape: Shape, config: Any, path: str) -> None:
    """model.shape is what dry runs reckon with, so it has to be the model's own."""
    heads = config.num_attention_heads
    own = Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
    )
    for name, stated in shape.model_dump().items():
        actual = getattr(own, name)
        if stated != actual:
            raise UserError(f"model.shape.{name} = {stated}, but {path} has {actual}")


def positions(model: Model) -> int | None:
    """Tokens that a prompt and its response may have together; None: the model does not say."""
    return getattr(from_hub(AutoConfig.from_pretrained, model), "max_position_embeddings", None)


def refuse_too_long(model: Model, tokens: int) -> None:
    """Beyond the positions that a model was made for its log-probs mean nothing."""
    most = positions(model)
    if most is not None and tokens > most:
        raise UserError(
            f"the longest prompt with rollout.max_tokens (or eval.max_tokens) needs {tokens} "
            f"tokens, and {model.path} has positions for {most}: lower them, or "
            "data.max_prompt_tokens"
        )


def template_digest(tokenizer: Any) -> str:
    """By which a chat template is known again."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16]


def stop_ids(model: Model, tokenizer: Any, stop: Sequence[str]) -> tuple[int, ...]:
    """All ids that end a response: the model's, the tokenizer's, and the tokens named in `stop`."""
    config = from_hub(AutoConfig.from_pretrained, model)
    revision = model.revision or "main"
    try:
        defaults = GenerationConfig.from_pretrained(locate(model.path), revision=revision)
    except OSError:  # a model without a file of its own for them
        defaults = GenerationConfig.from_model_config(config)
    configured = defaults.eos_token_id
    ids = set(configured if isinstance(configured, list) else [configured])
    ids.add(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab()
    for text in stop:
        if text not in vocabulary:
            raise UserError(f"rollout.stop: {text!r} is not a token of this model's tokenizer")
        ids.add(vocabulary[text])
    ids.discard(None)
    if not ids:
        raise UserError("the model has no stop token; name one in rollout.stop")
    return tuple(sorted(ids))
