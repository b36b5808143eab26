"""Loads the tokenizer, causal LM and stop ids of a local folder or a Hugging Face id.

Also checks `model.shape` against the model's own config. Knows transformers; nothing of training.
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
from jinja2 import TemplateSyntaxError
from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging as transformers_logging
from transformers.utils.chat_template_utils import render_jinja_template

from asymrl import pocket
from asymrl.config.schema import RAW, LoRAConfig, ModelConfig, ShapeConfig
from asymrl.data import hub
from asymrl.engines import lora, model_folder
from asymrl.errors import UserError, one_line, rust_error_to_value_error, short_repr

# What transformers raises for a folder that it cannot read.
LOAD_ERRORS = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(AssertionError, ImportError, RuntimeError),
    *(SafetensorError, UnpicklingError, StrictDataclassError),
)
transformers_logging.disable_progress_bar()  # its bars would garble the live progress line


def set_threads(threads: int) -> None:
    """Set the number of CPU threads of torch; 0 keeps torch's default."""
    if threads:
        torch.set_num_threads(threads)


def locate(path: str) -> str:
    """The path to load: the folder of a model that is made here, now if need be (`pocket:N`,
    `smollm2_135m`); otherwise the given path."""
    return str(pocket.model_folder(path)) if pocket.is_made_here(path) else path


def load_tokenizer(model: ModelConfig, chat_template: str | None = None) -> Any:
    """The model's tokenizer. UserError if it has ids for which the model has no embedding.

    chat_template: the value of data.chat_template; the content of a file replaces the tokenizer's.
    """
    folder = Path(locate(model.path))
    if folder.is_dir():
        model_folder.check_tokenizer_ids(folder)
    tokenizer = from_hub(AutoTokenizer.from_pretrained, model)
    size = vocabulary_size(model)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if size is not None and highest >= size:
        raise UserError(
            f"{model.path}: the tokenizer has ids up to {highest}, but the model's vocabulary size "
            f"is {size}: they do not belong together"
        )
    if chat_template not in (None, RAW):
        tokenizer.chat_template = read_chat_template(Path(chat_template))
    return tokenizer


def read_chat_template(file: Path) -> str:
    """The Jinja source of data.chat_template. UserError if it cannot be read or compiled."""
    try:
        template = file.read_text(encoding="utf-8")
        render_jinja_template([], chat_template=template)  # compiles it
        return template
    except TemplateSyntaxError as error:
        raise UserError(
            f"data.chat_template: {file}, line {error.lineno}: {one_line(error.message)}"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or an impossible name
        raise UserError(
            f"data.chat_template: {file} cannot be read ({one_line(error)}); valid are none and "
            "the path of a Jinja file"
        ) from None


def vocabulary_size(model: ModelConfig) -> int | None:
    """Rows of the model's embedding by its config; None if the config does not say."""
    return positive_int(model, "vocab_size")


def load_config(model: ModelConfig) -> Any:
    return from_hub(AutoConfig.from_pretrained, model)


def positive_int(model: ModelConfig, key: str) -> int | None:
    """A key of the model's config, None if absent. UserError unless it is a positive integer."""
    value = getattr(load_config(model).get_text_config(), key, None)
    if value is not None and (type(value) is not int or value < 1):
        raise UserError(
            f"{model.path}: {key} in config.json must be a positive integer (got "
            f"{short_repr(value)})"
        )
    return value


def load_model(model: ModelConfig, dtype: torch.dtype, device: str | None = None) -> Any:
    """The causal LM in eval mode; device: by default the GPU if there is one, otherwise the CPU.
    Of a checkpoint that holds LoRA adapters alone: their model, with them merged into it.

    UserError for a model without one of its weights, which transformers would initialise randomly.
    """
    config = load_config(model)
    if model.shape:
        check_shape(model.shape, config, model.path)
    folder = Path(locate(model.path))
    if base := model_folder.base_of_adapters(folder):
        return load_adapted(model, base, dtype, device)
    print(f"loading {model.path}", flush=True)
    if folder.is_dir():
        embedding = (vocabulary_size(model), positive_int(model, "hidden_size"))
        model_folder.check_weights(folder, model.allow_pickle, embedding)
    loaded, report = from_hub(
        AutoModelForCausalLM.from_pretrained,
        model,
        dtype=dtype,
        attn_implementation="eager" if caps_attention(config) else "sdpa",
        use_safetensors=None if model.allow_pickle else True,
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"the weights of {model.path} are incomplete: {missing[0]} and {len(missing) - 1} "
            "others are missing"
        )
    if extra := sorted(report["unexpected_keys"]):
        print(f"note: {model.path} has {len(extra)} unused tensors, such as {extra[0]}")
    make_generation_config_valid(loaded, model.path)
    return loaded.eval().to(device or default_device())


def load_adapted(
    model: ModelConfig, base: tuple[str, str | None], dtype: torch.dtype, device: str | None
) -> Any:
    """The model of adapters, `base` (path, revision), with the adapters of `model` merged into it.
    UserError if one of both cannot be loaded, or under ZeRO-3, whose shards cannot be merged."""
    what = f"{model.path} holds LoRA adapters of {base[0]} without its weights"
    if is_deepspeed_zero3_enabled():
        raise UserError(
            f"{what}, which training with ZeRO-3 cannot start from; use a checkpoint saved with "
            "checkpoint.merged=true, or policy.backend=local"
        )
    try:
        plain = load_model(
            model.model_copy(update={"path": base[0], "revision": base[1]}), dtype, device
        )
        with ExitStack() as stack:
            stack.push(rust_error_to_value_error)
            return lora.merge_saved(plain, Path(model.path) / model_folder.ADAPTER).eval()
    except (UserError, *LOAD_ERRORS) as error:
        raise UserError(f"{what}: {one_line(error)}") from None


def check_lora(model: ModelConfig, settings: LoRAConfig) -> None:
    """UserError for a target that no layer of the model has, found without loading its weights."""
    config = load_config(model)
    try:
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(
                config, trust_remote_code=model.trust_remote_code
            )
    except LOAD_ERRORS:  # load_model explains it
        return
    lora.target_layers(skeleton, settings.targets)


def caps_attention(config: Any) -> bool:
    """Whether the model soft-caps its attention scores, as Gemma 2 does: sdpa would not do it."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def make_generation_config_valid(model: Any, path: str) -> None:
    """Reduce a generation_config that transformers loads but refuses to save to its token ids, so
    that checkpoints can be saved. It has no effect here: every sampling field is explicit."""
    config = model.generation_config
    try:
        config.validate(strict=True)
    except ValueError as error:
        print(
            f"note: generation_config.json of {path} contradicts itself, so checkpoints keep only "
            f"its token ids ({one_line(error)})"
        )
        ids = {key: x for key, x in config.to_dict().items() if key.endswith("_token_id")}
        model.generation_config = GenerationConfig(**ids)


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype() -> torch.dtype:
    """bf16 on a GPU, fp32 on a CPU, where bf16 is slower."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def from_hub(load: Any, model: ModelConfig, **kwargs: Any) -> Any:
    """load(path, ...) of the model. UserError for a path that transformers cannot load."""
    located = locate(model.path)
    local = Path(located).is_dir()
    if local:
        model_folder.check_config_files(Path(located), model.trust_remote_code, model.allow_pickle)
    else:
        model_folder.check_hub_id(located)
        hub.go_offline_if_unreachable()
    kwargs |= {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        with ExitStack() as stack:
            stack.push(rust_error_to_value_error)
            return load(located, **kwargs)
    except LOAD_ERRORS as error:
        cause = " ".join(str(error).split()) or type(error).__name__
    hint = next((hint for part, hint in HINTS.items() if part in cause), "")
    if local:
        raise UserError(f"model folder {located} cannot be loaded: {one_line(cause)}{hint}")
    raise UserError(
        f"model {model.path!r} is neither a local folder nor a model on the Hugging Face hub "
        f"({one_line(cause)}){hint}"
    )


# Part of an error of transformers -> the setting that solves it.
HINTS = {
    "trust_remote_code": "; model.trust_remote_code=true runs the model's own code",
    "and thus cannot be loaded with `safetensors`": "; model.allow_pickle=true reads pickled "
    "weights, which can run code",
}


def read_shape(model: ModelConfig, folder: Path) -> ShapeConfig | None:
    """The shape of a model by its config.json in `folder`; None if that lacks one of the sizes.
    UserError if the folder cannot be loaded, or differs from `model.shape`."""
    config = load_config(model.model_copy(update={"path": str(folder), "revision": None}))
    if model.shape:
        check_shape(model.shape, config, model.path)
    try:
        return ShapeConfig.model_validate(sizes(config))
    except ValidationError:
        return None


def sizes(config: Any) -> dict[str, Any]:
    """The values that `model.shape` should have by a model's config, None where it has none."""
    config = config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    hidden = getattr(config, "hidden_size", None)
    return {
        "layers": getattr(config, "num_hidden_layers", None),
        "hidden": hidden,
        "intermediate": getattr(config, "intermediate_size", None),
        "heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", heads),
        "head_dim": getattr(config, "head_dim", None) or (hidden and heads and hidden // heads),
        "vocab": getattr(config, "vocab_size", None),
        "tied": getattr(config, "tie_word_embeddings", None),
    }


def check_shape(shape: ShapeConfig, config: Any, path: str) -> None:
    """UserError unless `model.shape`, with which dry runs calculate, equals the model's config."""
    actual = sizes(config)
    for name, stated in shape.model_dump().items():
        if stated != actual[name]:
            raise UserError(
                f"model.shape.{name} = {stated}, but {path} has {actual[name]}; model.shape=null "
                "reads the shape from the model"
            )


def positions(model: ModelConfig) -> int | None:
    """The maximum length of prompt and response together; None if the config does not say."""
    return positive_int(model, "max_position_embeddings")


def check_positions(model: ModelConfig, tokens: int) -> None:
    """UserError if `tokens`, prompt and response, exceed the positions the model was trained on."""
    maximum = positions(model)
    if maximum is not None and tokens > maximum:
        raise UserError(
            f"the longest prompt plus rollout.max_tokens (or eval.max_tokens) needs {tokens} "
            f"tokens, but {model.path} supports {maximum}: lower max_tokens or "
            "data.max_prompt_tokens"
        )


def template_digest(tokenizer: Any) -> str:
    """Identifies the tokenizer's chat template: 64 bits of its SHA-256, in hex."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16]


def stop_ids(model: ModelConfig, tokenizer: Any, stop: Sequence[str]) -> tuple[int, ...]:
    """All token ids that end a response, sorted: those of the model, the tokenizer and `stop`.

    stop: texts that are one token each in a response. UserError for any other text, an invalid
    id, or no id.
    """
    eos = load_generation_config(model).eos_token_id
    ids = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id]
    for text in stop:
        ids.append(token_of(tokenizer, text))
    ids = [i for i in ids if i is not None]
    if not ids:
        raise UserError(f"{model.path} has no stop token; name one in rollout.stop")
    size = vocabulary_size(model)
    for i in ids:
        if type(i) is not int or i < 0 or (size is not None and i >= size):
            raise UserError(
                f"{model.path}: stop token {short_repr(i)} is not a token id below the vocabulary "
                f"size {size}"
            )
    return tuple(sorted(set(ids)))


def token_of(tokenizer: Any, text: str) -> int:
    """The one token that a text is. UserError if it is none or several.

    Tokenizers like Llama 2's put a space before a text that they encode, but not before its
    continuation in a response, so a text may also be one token after another text.
    """
    tokens = tokenizer.encode(text, add_special_tokens=False)
    before = tokenizer.encode("a", add_special_tokens=False)
    together = tokenizer.encode(f"a{text}", add_special_tokens=False)
    if len(tokens) == 1:
        return tokens[0]
    if len(together) == len(before) + 1 and together[:-1] == before:
        return together[-1]
    raise UserError(
        f"rollout.stop: {short_repr(text)} is {len(tokens)} tokens of this model's tokenizer; a "
        "stop text must be exactly one"
    )


def load_generation_config(model: ModelConfig) -> GenerationConfig:
    """generation_config.json, or what config.json implies if that file does not exist.

    UserError for a damaged file: ignoring it would silently lose stop tokens.
    """
    config, folder = load_config(model), Path(locate(model.path))
    if folder.is_dir():
        if (folder / "generation_config.json").exists():
            # GenerationConfig knows no trust_remote_code
            return from_hub(lambda path, **_: GenerationConfig.from_pretrained(path), model)
        return GenerationConfig.from_model_config(config)
    hub.go_offline_if_unreachable()
    try:
        return GenerationConfig.from_pretrained(model.path, revision=model.revision or "main")
    except OSError:  # the model has no generation_config.json
        return GenerationConfig.from_model_config(config)
