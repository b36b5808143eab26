"""A local folder or a Hugging Face id -> tokenizer, causal LM, stop ids.

Knows transformers; nothing of training. What a base config says of the model's shape is checked
against the model's own config here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from asymrl import pocket
from asymrl.config.schema import ModelConfig, ShapeConfig
from asymrl.data import hub
from asymrl.engines import model_folder
from asymrl.errors import UserError, one_line, rust_error_to_value_error, short_repr

POCKET = "pocket"
# What transformers raises for a folder that it cannot make sense of.
BROKEN = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    ImportError,
    RuntimeError,
    SafetensorError,
    UnpicklingError,
    StrictDataclassError,
)
transformers_logging.disable_progress_bar()  # its bars and the live progress line do not mix


def set_threads(threads: int) -> None:
    """CPU threads; 0 leaves torch's own choice."""
    if threads:
        torch.set_num_threads(threads)


def locate(path: str) -> str:
    """`pocket` is the project's own small policy, made on first use; all else stays as it is."""
    return str(pocket.ready() / "policy") if path == POCKET else path


def load_tokenizer(model: ModelConfig) -> Any:
    """UserError where it has ids that the model has no embedding for."""
    folder = Path(locate(model.path))
    if folder.is_dir():
        model_folder.check_tokenizer_ids(folder)
    tokenizer = from_hub(AutoTokenizer.from_pretrained, model)
    rows = vocabulary(model)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if rows is not None and highest >= rows:
        raise UserError(
            f"{model.path}: its tokenizer has ids up to {highest}, and its config.json a "
            f"vocabulary of {rows}: they are not of one model"
        )
    return tokenizer


def vocabulary(model: ModelConfig) -> int | None:
    """Rows of the model's embedding; None: its config does not say."""
    return whole_number(from_hub(AutoConfig.from_pretrained, model), "vocab_size", model)


def whole_number(config: Any, key: str, model: ModelConfig) -> int | None:
    given = getattr(config.get_text_config(), key, None)
    if given is not None and (type(given) is not int or given < 1):
        raise UserError(
            f"{model.path}: {key} of its config.json is {short_repr(given)}, not a number"
        )
    return given


def load_model(model: ModelConfig, dtype: torch.dtype, device: str | None = None) -> Any:
    """The causal LM in eval mode, by default on the GPU where there is one. Every weight is read:
    one that is not there would be drawn at random."""
    if model.shape:
        check_shape(model.shape, from_hub(AutoConfig.from_pretrained, model), model.path)
    print(f"loading {model.path}", flush=True)
    folder = Path(locate(model.path))
    if folder.is_dir():
        config = from_hub(AutoConfig.from_pretrained, model)
        embedding = (vocabulary(model), whole_number(config, "hidden_size", model))
        model_folder.check_weights(folder, model.allow_pickle, embedding)
    loaded, report = from_hub(
        AutoModelForCausalLM.from_pretrained,
        model,
        dtype=dtype,
        attn_implementation="sdpa",
        use_safetensors=None if model.allow_pickle else True,
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"the weights of {model.path} are not whole: {missing[0]} is missing, and "
            f"{len(missing) - 1} more"
        )
    if extra := sorted(report["unexpected_keys"]):
        print(f"note: {model.path} holds {len(extra)} unused tensors, such as {extra[0]}")
    return loaded.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def default_dtype() -> torch.dtype:
    """bf16 on a GPU, fp32 on a CPU, where bf16 is slower."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def from_hub(load: Any, model: ModelConfig, **kwargs: Any) -> Any:
    """What `load` makes of the model's path; UserError for all that it cannot."""
    located = locate(model.path)
    local = Path(located).is_dir()
    if local:
        model_folder.check_config_files(Path(located), model.trust_remote_code, model.allow_pickle)
    elif located.startswith(("/", ".", "~")):  # no id of the hub does
        raise UserError(f"model folder {located} does not exist; valid is a folder or a hub id")
    else:
        hub.go_offline_if_unreachable()
    kwargs |= {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        with ExitStack() as stack:
            stack.push(rust_error_to_value_error)
            return load(located, **kwargs)
    except BROKEN as error:
        cause = " ".join(str(error).split()) or type(error).__name__  # hints may be on two lines
    hint = next((hint for part, hint in HINTS.items() if part in cause), "")
    if local:
        raise UserError(f"model folder {located} cannot be loaded: {one_line(cause)}{hint}")
    raise UserError(
        f"model {model.path!r} is neither a local folder nor a model that the Hugging Face hub "
        f"gave ({one_line(cause)}){hint}"
    )


# Part of what transformers says -> which setting it is about here.
HINTS = {
    "trust_remote_code": "; model.trust_remote_code=true runs the code that it brings along",
    "and thus cannot be loaded with `safetensors`": "; model.allow_pickle=true reads pickled "
    "weights, which can run code",
}


def check_shape(shape: ShapeConfig, config: Any, path: str) -> None:
    """model.shape is what dry runs reckon with, so it has to be the model's own."""
    heads = getattr(config, "num_attention_heads", None)
    hidden = getattr(config, "hidden_size", None)
    own = {
        "layers": getattr(config, "num_hidden_layers", None),
        "hidden": hidden,
        "intermediate": getattr(config, "intermediate_size", None),
        "heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", heads),
        "head_dim": getattr(config, "head_dim", None) or (hidden and heads and hidden // heads),
        "vocab": getattr(config, "vocab_size", None),
        "tied": getattr(config, "tie_word_embeddings", None),
    }
    for name, stated in shape.model_dump().items():
        if stated != own[name]:
            raise UserError(f"model.shape.{name} = {stated}, but {path} has {own[name]}")


def positions(model: ModelConfig) -> int | None:
    """Tokens that a prompt and its response may have together; None: the model does not say."""
    config = from_hub(AutoConfig.from_pretrained, model)
    return whole_number(config, "max_position_embeddings", model)


def check_positions(model: ModelConfig, tokens: int) -> None:
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


def stop_ids(model: ModelConfig, tokenizer: Any, stop: Sequence[str]) -> tuple[int, ...]:
    """All ids that end a response: the model's, the tokenizer's, and the tokens named in `stop`."""
    configured = defaults(model).eos_token_id
    ids = [*configured] if isinstance(configured, list) else [configured]
    ids.append(tokenizer.eos_token_id)
    words = tokenizer.get_vocab()
    for text in stop:
        if text not in words:
            raise UserError(
                f"rollout.stop: {short_repr(text)} is not a token of this model's tokenizer"
            )
        ids.append(words[text])
    ids = [one for one in ids if one is not None]
    if not ids:
        raise UserError(f"{model.path} has no stop token; name one in rollout.stop")
    rows = vocabulary(model)
    for one in ids:
        if type(one) is not int or one < 0 or (rows is not None and one >= rows):
            raise UserError(
                f"{model.path}: stop token {short_repr(one)} is not a token id below its "
                f"vocabulary size, {rows}"
            )
    return tuple(sorted(set(ids)))


def defaults(model: ModelConfig) -> GenerationConfig:
    """generation_config.json; of a model without one, what its config.json implies. A broken one
    is refused, since it would silently lose stop tokens."""
    config, folder = from_hub(AutoConfig.from_pretrained, model), Path(locate(model.path))
    if folder.is_dir():
        if (folder / "generation_config.json").exists():
            return from_hub(generation_config, model)
        return GenerationConfig.from_model_config(config)
    hub.go_offline_if_unreachable()
    try:
        return GenerationConfig.from_pretrained(model.path, revision=model.revision or "main")
    except OSError:  # a model without a file of its own for them
        return GenerationConfig.from_model_config(config)


def generation_config(folder: str, **_: Any) -> GenerationConfig:
    return GenerationConfig.from_pretrained(folder)
