"""A local model folder, looked at before transformers reads it: no pickle, no code, no weights that
are missing or cut short, no sizes that would fill the memory. Each refusal names the file.

Knows the files of a Hugging Face folder; loads no model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from asymrl.errors import UserError, short_repr

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
EMBEDDING = "model.embed_tokens.weight"
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Far above any model; beyond it transformers would build layers, or tables, until the memory ends.
MOST = {
    "num_hidden_layers": 10_000,
    "hidden_size": 2**24,
    "intermediate_size": 2**24,
    "num_attention_heads": 2**16,
    "num_key_value_heads": 2**16,
    "head_dim": 2**16,
    "vocab_size": 2**24,
}


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object; {} where there is none."""
    try:
        held = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged and cannot be read: {error}") from None
    if not isinstance(held, dict):
        raise UserError(f"{file} is damaged: it holds no object")
    return held


def check_config_files(folder: Path, trusted: bool, pickles: bool) -> None:
    """UserError for custom code that was not asked for, and for sizes that no model has."""
    for name in ("config.json", "tokenizer_config.json"):
        held = read_json_object(folder / name)
        if held.get("auto_map") and not trusted:
            raise UserError(
                f"{folder / name} names code of its own (auto_map), which is not run unless "
                "model.trust_remote_code=true"
            )
    config = read_json_object(folder / "config.json")
    for key, most in MOST.items():
        given = config.get(key)
        if given is not None and (type(given) is not int or not 1 <= given <= most):
            raise UserError(
                f"{folder / 'config.json'}: {key} = {short_repr(given)} must be an integer from 1 "
                f"to {most}"
            )
    file = config.get("transformers_weights")
    if file is not None and not pickles and not str(file).endswith((WEIGHTS, INDEX)):
        raise UserError(
            f"{folder / 'config.json'}: transformers_weights = {short_repr(file)}; weights come "
            f"from {WEIGHTS} only, unless model.allow_pickle=true"
        )


def check_tokenizer_ids(folder: Path) -> None:
    """UserError for ids that no vocabulary has: its library fills the memory with the gaps between
    ids, and then ends the process."""
    model = read_json_object(folder / "tokenizer.json").get("model")
    tables = {
        "tokenizer.json": model.get("vocab") if isinstance(model, dict) else None,
        "vocab.json": read_json_object(folder / "vocab.json"),
    }
    for name, table in tables.items():
        ids = table.values() if isinstance(table, dict) else ()
        largest = max((x for x in ids if type(x) is int), default=0)
        if largest >= MOST["vocab_size"]:
            raise UserError(
                f"{folder / name}: its largest id is {short_repr(largest)}; valid are ids below "
                f"{MOST['vocab_size']}"
            )


def check_weights(folder: Path, pickles: bool, embedding: tuple[Any, Any]) -> None:
    """UserError that names the file of weights that is missing, pickled, damaged, or of another
    model than config.json. embedding: its (vocabulary, width) by that, None where it says none."""
    if not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
        found = [name for name in PICKLED if (folder / name).exists()]
        if found and pickles:
            return
        if found:
            raise UserError(
                f"{folder} holds {found[0]} and no {WEIGHTS}: reading pickled weights can run "
                "code; convert them, or model.allow_pickle=true"
            )
        raise UserError(f"model folder {folder} has no weights: {WEIGHTS} is missing")
    names = [WEIGHTS] if (folder / WEIGHTS).exists() else shards(folder)
    for name in names:
        check_shard(folder / name, embedding)


def shards(folder: Path) -> list[str]:
    """The files that the index names, all of them there."""
    weights = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(x, str) for x in weights.values()):
        raise UserError(f"{folder / INDEX} is damaged: it has no weight_map of tensors to files")
    names = sorted(set(weights.values()))
    for name in names:
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise UserError(
                f"{folder / INDEX} names {short_repr(name)}, which is no file beside it"
            )
        if not (folder / name).is_file():
            raise UserError(f"{folder / INDEX} names {name}, which is not there")
    return names


def check_shard(file: Path, embedding: tuple[Any, Any]) -> None:
    """UserError where it is cut short, or holds what are no weights, or those of a model of another
    size: transformers would make the one of config.json first, and fill the memory with it."""
    try:
        with safe_open(file, framework="pt") as held:
            for name in held.keys():  # noqa: SIM118
                if (kind := held.get_slice(name).get_dtype()) not in FLOATS:
                    raise UserError(
                        f"{file}: {name} is of type {kind}; weights are {', '.join(FLOATS)}"
                    )
                shape = tuple(held.get_slice(name).get_shape())
                as_said = all(x in (None, y) for x, y in zip(embedding, shape, strict=False))
                if name == EMBEDDING and not as_said:
                    raise UserError(
                        f"{file}: {name} is {shape}, and by config.json it is {embedding}: they "
                        "are not of one model"
                    )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{file} is damaged and cannot be read: {error}") from None
