"""Explains a mistake in a config in one sentence: where it is, the key, the value, what is valid.

Knows the keys of the schema and what other frameworks call them. Reads no file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from asymrl.config.schema import Config, MethodConfig, keyword_parameters
from asymrl.errors import short_repr

COMMAND_LINE = "command line"
# What other frameworks call a setting -> its key here, or the option of train.py.
OTHER_NAMES = {
    "learning_rate": "optim.lr",
    "batch_size": "rollout.prompts",
    "train_batch_size": "rollout.prompts",
    "rollout_batch_size": "rollout.prompts",
    "mini_batch_size": "optim.minibatch_prompts",
    "ppo_mini_batch_size": "optim.minibatch_prompts",
    "micro_batch_size": "policy.token_budget",
    "num_generations": "rollout.group_size",
    "n": "rollout.group_size",
    "g": "rollout.group_size",
    "n_samples_per_prompt": "rollout.group_size",
    "max_new_tokens": "rollout.max_tokens",
    "max_completion_length": "rollout.max_tokens",
    "max_response_length": "rollout.max_tokens",
    "filter_groups": "rollout.dynamic_sampling.leftover",
    "max_num_gen_batches": "rollout.dynamic_sampling.max_rounds",
    "overlong_buffer": "rollout.overlong.buffer",
    "overlong_buffer_len": "rollout.overlong.buffer",
    "max_prompt_length": "data.max_prompt_tokens",
    "max_steps": "steps",
    "num_steps": "steps",
    "total_steps": "steps",
    "total_training_steps": "steps",
    "num_train_epochs": "steps",
    "ppo_epochs": "optim.epochs",
    "num_iterations": "optim.epochs",
    "warmup_steps": "optim.warmup_updates",
    "warmup_ratio": "optim.warmup_share",
    "lr_warmup_steps_ratio": "optim.warmup_share",
    "lr_scheduler_type": "optim.lr_schedule",
    "lr_scheduler": "optim.lr_schedule",
    "min_lr_ratio": "optim.lr_floor",
    "grad_clip": "optim.max_grad_norm",
    "max_norm": "optim.max_grad_norm",
    **dict.fromkeys(
        ("kl", "kl_loss_coef", "kl_penalty", "use_kl_loss", "init_kl_coef", "kl_beta"),
        "loss.kl_coef",
    ),
    "ref_model": "loss.kl_coef",
    "kl_loss_type": "loss.kl_estimator",
    "importance_sampling_level": "loss.name",
    **dict.fromkeys(("use_peft", "use_lora", "lora", "peft_config"), "policy.lora.rank"),
    **dict.fromkeys(("lora_r", "lora_rank"), "policy.lora.rank"),
    "lora_alpha": "policy.lora.alpha",
    "target_modules": "policy.lora.targets",
    "lora_target_modules": "policy.lora.targets",
    "dynamic_sampling": "rollout.dynamic_sampling.leftover",
    "mask_truncated_completions": "rollout.truncation",
    "min_lr": "optim.lr_floor",
    "loss_mode": "loss.name",
    "clip_ratio_c": "loss.dual_clip",
    "delta": "loss.dual_clip",
    "target_entropy": "loss.entropy_control.target",
    "entropy_coef": "loss.entropy_bonus",
    "entropy_coeff": "loss.entropy_bonus",
    "ent_coef": "loss.entropy_bonus",
    "epsilon": "loss.clip_low",
    "epsilon_high": "loss.clip_high",
    "clip_ratio": "loss.clip_low",
    "clip_ratio_high": "loss.clip_high",
    "eps_clip": "loss.clip_low",
    "loss_type": "loss.aggregation or loss.name",
    "loss_agg_mode": "loss.aggregation",
    "estimator": "advantage.name",
    "adv_estimator": "advantage.name",
    "reward": "verifier.name",
    "reward_fn": "verifier.name",
    "reward_funcs": "verifier.name",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "dataset": "data.train",
    "dataset_name": "data.train",
    "train_files": "data.train",
    "system_prompt": "data.system",
    "bf16": "policy.dtype=bfloat16",
    "wandb_project": "tracking.project",
    "report_to": "tracking.wandb",
    "save_steps": "checkpoint.every",
    "save_freq": "checkpoint.every",
    "eval_steps": "eval.every",
    "test_freq": "eval.every",
    "beta": "advantage.beta_pos, advantage.beta_neg or loss.kl_coef",
    "output_dir": "--output-dir DIR",
    "resume": "--resume auto|never|DIR",
    "dry_run": "--dry-run",
    "max_minutes": "--max-minutes M",
    "row": "--row ROW",
    "config": "--config CONFIG",
}
# The key that a value belongs to if a section is given one: `model=gpt2`.
MAIN_KEYS = {
    "model": "path",
    "data": "train",
    "verifier": "name",
    "advantage": "name",
    "reweight": "name",
    "schedule": "name",
    "eval": "benchmarks",
    "optim": "lr",
    "checkpoint": "every",
    "loss": "name",
    "tracking": "wandb",
}
# What `none`, YAML's null and the like stand for in these keys.
OFF = {
    "reweight.name": "none",
    "schedule.name": "constant",
    "data.chat_template": "none",
    "tracking.wandb": "off",
}
GRPO = (
    "GRPO is asym with beta_pos 0.5 and beta_neg 0.5: use --row grpo, or advantage.name=asym "
    "advantage.beta_pos=0.5 advantage.beta_neg=0.5"
)


def explain(
    error: ValidationError, layers: Sequence[tuple[str, Any]], rows: Sequence[str] = ()
) -> str:
    """The first error as one sentence; unknown keys first, since they explain missing keys.

    layers: (name, settings) in the order of merging. rows: names of methods for --row.
    """
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    # pydantic names the member of a union too
    parts = [str(part) for part in first["loc"] if not re.search(r"^literal\[|Config$", str(part))]
    key = ".".join(parts)
    value, message = first["input"], first["msg"].removeprefix("Value error, ")
    hint = ""
    match first["type"]:
        case "extra_forbidden":
            key = whole_key(key, value)
            sentence, hint = f"unknown key {key}", unknown_key_hint(key)
        case "missing":
            sentence = f"{key} is missing"
            hint = f"; add it to the file, or {key}=VALUE to the command line"
        case "model_type":
            sentence = f"{key} = {short_repr(value)} is a value, but {key} is a section"
            hint = section_hint(key, value)
        case "literal_error" if key == "checkpoint.select":
            sentence = f"{key} = {short_repr(value)} must be last, or {key}.best_on=BENCHMARK"
        case "int_type" | "int_from_float" if isinstance(value, float) and value.is_integer():
            sentence = f"{key} = {value} must be an integer: {key}={int(value)}"
        case "list_type" if isinstance(value, str | int | float):
            sentence = f"{key} = {short_repr(value)} must be a list: {key}=[{value}]"
        case "string_type" | "literal_error" if key in OFF and is_off(value):
            sentence = f"{key} = {short_repr(value)} is not valid; did you mean {key}={OFF[key]}?"
        case _ if not key and (unknown := re.fullmatch(r"unknown key (\S+)", message)):
            sentence, hint = message, unknown_key_hint(unknown[1])
        case _ if not key:
            sentence = with_name_hint(message, rows)
        case _:
            message = re.sub("^Input should be", "must be", message)
            joint = " " if message.startswith("must be") else ": "
            sentence = f"{key} = {short_repr(value)}{joint}{message[0].lower()}{message[1:]}"
    return f"{origin(sentence, layers)}: {sentence}{hint}"


def whole_key(key: str, value: Any) -> str:
    """The dotted key that was written, where `value` is what lies below an unknown section."""
    while isinstance(value, Mapping) and len(value) == 1:
        (name, value), *_ = value.items()
        key = f"{key}.{name}"
    return key


def unknown_key_hint(key: str) -> str:
    section = key.rpartition(".")[0]
    if nearest := nearest_keys(key):
        return f"; did you mean {' or '.join(nearest)}?"
    known = section in known_sections()
    names = known_sections()[section] if known else known_sections()[""]
    return f"; valid keys are {', '.join(names)}"


def nearest_keys(key: str) -> list[str]:
    """Up to three keys of any section, or an option, that a wrong key may stand for."""
    section, _, name = key.rpartition(".")
    name = name.lower().replace("-", "_")
    if name in ("name", "id") and section in MAIN_KEYS:
        return [f"{section}.{MAIN_KEYS[section]}"]
    if name in OTHER_NAMES:
        return [OTHER_NAMES[name]]
    keys = all_keys()
    if same := [known for known in keys if known.rpartition(".")[2] == name]:
        return same[:3]
    here = [known for known in keys if known.rpartition(".")[0] == section]
    for candidates in (here, keys):
        if close := difflib.get_close_matches(key, candidates, n=1, cutoff=0.75):
            return close
    names = OTHER_NAMES | {known.rpartition(".")[2]: known for known in reversed(keys)}
    return [names[close] for close in difflib.get_close_matches(name, names, n=1, cutoff=0.75)]


def section_hint(key: str, value: Any) -> str:
    if key in MAIN_KEYS:
        main = f"{key}.{MAIN_KEYS[key]}"
        return f"; did you mean {main}={OFF.get(main, 'VALUE') if is_off(value) else value}?"
    for section, names in known_sections().items():
        if section == key or (section.endswith(".NAME") and key.startswith(section[:-4])):
            return f"; its keys are {', '.join(names)}"
    return ""


def with_name_hint(sentence: str, rows: Sequence[str]) -> str:
    """The sentence on a wrong name of a method or verifier, with what it may stand for."""
    match = re.match(r"(\w+)\.name = '([^']*)' must be one of ([^;]*)", sentence)
    if match is None:
        return sentence
    section, name, valid = match[1], match[2].lower(), match[3].split(", ")
    if section == "advantage" and name == "grpo":
        return f"advantage.name = {match[2]!r} is not an estimator: {GRPO}"
    names = [*valid, *(rows if section != "verifier" else ())]
    if is_off(name) and (off := OFF.get(f"{section}.name")):
        return f"{sentence}; did you mean {off}?"
    close = difflib.get_close_matches(name, [name for name in names if name != "none"], n=1)
    if not close:
        return sentence
    row = close[0] not in valid
    return f"{sentence}; did you mean {'the row, --row ' if row else ''}{close[0]}?"


def is_off(value: Any) -> bool:
    """Whether a value says that there shall be none of something, as other programs write it."""
    return value in (None, False) or str(value).lower() in ("none", "null", "off", "no", "")


def explain_option(word: str) -> str:
    """The sentence on a word of the command line that is not an option, such as --optim.lr=1e-6."""
    name, equals, value = word.lstrip("-").partition("=")
    key, value = name.replace("-", "_"), value if equals else "VALUE"
    known = key in all_keys()
    nearest = [key] if known else nearest_keys(key)
    written = [near if near.startswith("--") else f"{near}={value}" for near in nearest]
    hint = f"; did you mean {' or '.join(written)}?" if written else ""
    return f"{COMMAND_LINE}: {word} is not an option; settings are written key=value{hint}"


def known_sections() -> dict[str, list[str]]:
    """Section -> its keys; the section "" has the keys at the top. In `eval.sampling.NAME` the user
    chooses the name."""
    sections: dict[str, list[str]] = {"": list(Config.model_fields)}
    ahead: list[tuple[str, Any]] = [("", Config)]
    while ahead:
        prefix, section = ahead.pop()
        for name, field in section.model_fields.items():
            chosen = ".NAME" if get_origin(field.annotation) is dict else ""
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    sections[f"{prefix}{name}{chosen}"] = keys_of(kind)
                    ahead.append((f"{prefix}{name}{chosen}.", kind))
    return sections


def keys_of(section: type[BaseModel]) -> list[str]:
    """The keys of a section; for a method, those of every function of the package."""
    names = list(section.model_fields)
    if issubclass(section, MethodConfig):
        functions = section.METHODS.values()
        names += [p.name for function in functions for p in keyword_parameters(function)]
    return list(dict.fromkeys(names))


def all_keys() -> list[str]:
    """Every dotted key that holds a value and not a section."""
    sections = known_sections()
    keys = [
        f"{section}.{name}".lstrip(".") for section, names in sections.items() for name in names
    ]
    return [key for key in keys if key not in sections]


def origin(sentence: str, layers: Sequence[tuple[str, Any]]) -> str:
    """The layer that is merged last of those that set a key of the sentence; all files (not the
    overrides, which come last) if none does, since what is missing is missing everywhere."""
    keys = re.findall(r"[A-Za-z_]\w*(?:\.\w+)+|^unknown key \w+|^\w+", sentence)
    paths = [key.removeprefix("unknown key ").split(".") for key in keys]
    sets = [(depth(settings, path), n) for n, (_, settings) in enumerate(layers) for path in paths]
    deepest, last = max(sets, default=(0, 0))
    if not deepest:
        return " + ".join(name for name, _ in layers[:-1])
    return layers[last][0]


def depth(settings: Any, path: Sequence[str]) -> int:
    """How many parts of a key the settings have."""
    for n, part in enumerate(path):
        if not isinstance(settings, Mapping) or part not in settings:
            return n
        settings = settings[part]
    return len(path)
