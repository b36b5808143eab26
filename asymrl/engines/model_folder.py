"""Finds a model that is on this machine, and checks its folder before transformers reads it: no
pickled weights, no custom code, no missing or incomplete weights, no sizes that would fill the
memory. Each error names the file.

Knows the files of a Hugging Face folder; loads no model.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open

from asymrl import pocket
from asymrl.errors import UserError, short_repr
from asymrl.files import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS = (
    "adapter",  # the folder of a checkpoint's LoRA adapters, as peft writes it
    "adapter_config.json",
    "adapter_model.safetensors",
)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Far above any model. For larger sizes, transformers would build layers until the memory is full.
MAX_SIZES = {
    "num_hidden_layers": 10_000,
    "hidden_size": 2**24,
    "intermediate_size": 2**24,
    "num_attention_heads": 2**16,
    "num_key_value_heads": 2**16,
    "head_dim": 2**16,
    "vocab_size": 2**24,
}


def on_this_machine(path: str, revision: str | None) -> Path | None:
    """The folder with the config.json of `model.path`: a local folder, one that the project makes,
    or the hub's cache. None if it is not here. No network, makes nothing."""
    if pocket.is_made_here(path):
        folder = pocket.folder_of(path)
        return folder if (folder / "config.json").exists() else None
    if os.path.isdir(path):
        return Path(path)
    check_hub_id(path)
    try:
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
    except HFValidationError:
        raise UserError(
            f"model {short_repr(path)} is neither a local folder nor the id of a model on the "
            "Hugging Face hub"
        ) from None
    return Path(cached).parent if isinstance(cached, str) else None


def check_hub_id(path: str) -> None:
    """UserError for the path of a missing folder: one that cannot be a hub id, `name` or
    `org/name`, or whose first folder exists."""
    first, *rest = path.split("/")
    is_path = path.startswith(("/", ".", "~")) or len(rest) > 1
    in_folder = not is_path and bool(rest) and os.path.isdir(first)
    if is_path or in_folder:
        why = f", taken as a path because there is a folder {first} here," if in_folder else ""
        raise UserError(
            f"model folder {path}{why} does not exist; valid is the folder of a model or a hub id"
        )


def check_is_model(folder: Path | str) -> None:
    """UserError for a folder without a model, such as that of a run."""
    if os.path.exists(f"{folder}/config.json"):
        return
    if os.path.exists(f"{folder}/{ADAPTER_CONFIG}"):
        raise UserError(
            f"{folder} holds LoRA adapters without their model; use the folder of their "
            f"checkpoint, {Path(folder).parent}, or merge them (in peft: merge_and_unload)"
        )
    for inside in ("checkpoints/latest", "latest"):
        if os.path.isdir(f"{folder}/{inside}"):
            raise UserError(f"{folder} is a run folder, not a model folder; use {folder}/{inside}")
    raise UserError(
        f"{folder} is not a model folder: config.json is missing; valid is the folder of a model, "
        "as save_pretrained writes it, or a hub id"
    )


def base_of_adapters(folder: Path) -> tuple[str, str | None] | None:
    """(path, revision) of the model that the LoRA adapters in a folder belong to, if the folder is
    a checkpoint of adapters without weights (checkpoint.merged=false); None for other folders."""
    file = folder / ADAPTER / ADAPTER_CONFIG
    if not file.is_file() or (folder / WEIGHTS).exists() or (folder / INDEX).exists():
        return None
    settings = read_json(file)
    path, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(path, str) or not path or not isinstance(revision, str | None):
        raise UserError(
            f"{file} is damaged: base_model_name_or_path and revision must name the model of the "
            f"adapters (got {short_repr(path)}, {short_repr(revision)})"
        )
    return path, revision


def count_stored(folder: Path) -> int | None:
    """Parameters in a folder's safetensors files, an LM head that equals the embedding by
    config.json not counted; None without such files."""
    if not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
        return None
    tied = read_json_if_present(folder / "config.json").get("tie_word_embeddings")
    total = 0
    for name in [WEIGHTS] if (folder / WEIGHTS).exists() else shards(folder):
        with safe_open(folder / name, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                if not (tied and key == HEAD):
                    total += math.prod(tensors.get_slice(key).get_shape())
    return total


def read_json_if_present(file: Path) -> dict[str, Any]:
    """The object in a JSON file, {} if the file does not exist; UserError as in read_json."""
    return read_json(file) if file.exists() else {}


def check_config_files(folder: Path, trust_remote_code: bool, allow_pickle: bool) -> None:
    """UserError for missing or damaged files, custom code or pickled weights that are not allowed,
    and absurd sizes."""
    check_is_model(folder)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if read_json_if_present(folder / name).get("auto_map") and not trust_remote_code:
            raise UserError(
                f"{folder / name} refers to custom code (auto_map), which only runs with "
                "model.trust_remote_code=true"
            )
    config = read_json_if_present(folder / "config.json")
    for key, maximum in MAX_SIZES.items():
        size = config.get(key)
        if size is not None and (type(size) is not int or not 1 <= size <= maximum):
            raise UserError(
                f"{folder / 'config.json'}: {key} = {short_repr(size)} must be an integer from 1 "
                f"to {maximum}"
            )
    file = config.get("transformers_weights")
    if file is not None and not allow_pickle and not str(file).endswith((WEIGHTS, INDEX)):
        raise UserError(
            f"{folder / 'config.json'}: transformers_weights = {short_repr(file)} must be "
            f"{WEIGHTS}, unless model.allow_pickle=true"
        )


def check_tokenizer_ids(folder: Path) -> None:
    """UserError for token ids that no vocabulary has: the tokenizers library allocates memory for
    all ids below the largest, until the system kills the process."""
    model = read_json_if_present(folder / "tokenizer.json").get("model")
    vocabularies = {
        "tokenizer.json": model.get("vocab") if isinstance(model, dict) else None,
        "vocab.json": read_json_if_present(folder / "vocab.json"),
    }
    for name, vocabulary in vocabularies.items():
        ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
        largest = max((x for x in ids if type(x) is int), default=0)
        if largest >= MAX_SIZES["vocab_size"]:
            raise UserError(
                f"{folder / name}: the largest token id is {short_repr(largest)}; ids must be "
                f"below {MAX_SIZES['vocab_size']}"
            )


def check_weights(folder: Path, allow_pickle: bool, embedding: tuple[Any, Any]) -> None:
    """UserError, with the file, for weights that are missing, pickled, damaged, or do not fit
    config.json. embedding: (vocabulary, width) by config.json, None where it does not say."""
    if not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
        pickled = [name for name in PICKLED if (folder / name).exists()]
        if pickled and allow_pickle:
            return
        if pickled:
            raise UserError(
                f"{folder} has {pickled[0]} but no {WEIGHTS}: reading pickled weights can run "
                "code; convert them to safetensors, or set model.allow_pickle=true"
            )
        raise UserError(f"model folder {folder} has no weights: {WEIGHTS} is missing")
    names = [WEIGHTS] if (folder / WEIGHTS).exists() else shards(folder)
    for name in names:
        check_shard(folder / name, embedding)


def shards(folder: Path) -> list[str]:
    """The weight files that the index names. UserError unless all of them exist in the folder."""
    weight_map = read_json_if_present(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(x, str) for x in weight_map.values()):
        raise UserError(f"{folder / INDEX} is damaged: it has no weight_map of tensors to files")
    names = sorted(set(weight_map.values()))
    for name in names:
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise UserError(
                f"{folder / INDEX} names {short_repr(name)}, but weights must be .safetensors "
                "files in the same folder"
            )
        if not (folder / name).is_file():
            raise UserError(f"{folder / INDEX} names {name}, which does not exist")
    return names


def check_shard(file: Path, embedding: tuple[Any, Any]) -> None:
    """UserError for a file that is cut short, that holds tensors of other types than floats, or
    whose embedding has another size than in config.json: transformers would first allocate the
    latter, and could fill the memory."""
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if (kind := tensors.get_slice(name).get_dtype()) not in FLOATS:
                    raise UserError(
                        f"{file}: {name} has type {kind}; weights must be one of "
                        f"{', '.join(FLOATS)}"
                    )
                shape = tuple(tensors.get_slice(name).get_shape())
                fits = all(x in (None, y) for x, y in zip(embedding, shape, strict=False))
                if name == EMBEDDING and not fits:
                    raise UserError(
                        f"{file}: {name} has shape {shape}, but config.json says {embedding}: they "
                        "do not belong to one model"
                    )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{file} is damaged and cannot be read: {error}") from None
