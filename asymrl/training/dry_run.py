"""What --dry-run prints: whether the run fits, the arithmetic, the whole config.

Reads what is on this machine: the model's config.json, the problems, a chat template. Names what
is on the hub as unchecked. Loads no model, uses no network and writes nothing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from asymrl import pocket
from asymrl.config.schema import RAW, Config, MethodConfig, ShapeConfig, parameter_defaults
from asymrl.data.readers import Fields, read_problem_rows, short_names
from asymrl.data.reasoning_gym import GymSettings
from asymrl.data.sources import SOURCES, Subset, is_hub_source, training_subset
from asymrl.engines import memory, model_folder, step_time
from asymrl.errors import counted
from asymrl.verifiers.reasoning_gym import tasks_of

DIFFERENT_COUNT = 0.05  # of parameters, by which the estimate may differ from the folder's files


def dry_run(config: Config, composed_of: str) -> str:
    """The report, verdict first. UserError for a local model, file or column that is not there."""
    shape, checked, unchecked = check_model(config)
    for line, is_checked in check_data(config):
        (checked if is_checked else unchecked).append(line)
    sized = config.model_copy(update={"model": config.model.model_copy(update={"shape": shape})})
    gpus, gib = memory.cards()
    if shape is None:
        verdict = (
            f"unknown whether it fits: this machine does not have the config.json of "
            f"{config.model.path}; give a local folder, or set model.shape"
        )
        arithmetic, speed = "\n".join(memory.describe_batches(config)), []
    else:
        verdict = memory.verdict(sized, gpus, gib, memory.host_memory())
        arithmetic = memory.describe(sized, gpus, gib)
        speed = step_time.describe(sized, gpus, gib)
    return "\n".join(
        [
            f"verdict: {verdict}",
            summary(config),
            *speed,
            *(f"checked: {line}" for line in checked),
            *(f"not checked, since a dry run uses no network: {line}" for line in unchecked),
            describe_correction(config),
            *describe_dynamic_sampling(config),
            "",
            arithmetic,
            "",
            f"# composed of {composed_of}",
            "# a value that differs from its default has the default beside it",
            *marked(config),
        ]
    )


def summary(config: Config) -> str:
    rollout, optim = config.rollout, config.optim
    tokens = rollout.prompts * rollout.group_size * rollout.max_tokens
    updates = rollout.prompts // optim.minibatch_prompts * optim.epochs
    what = "the batch of a step" if rollout.dynamic_sampling else "a step"
    return (
        f"{what}: at most {counted(tokens, 'response token')} and "
        f"{counted(updates, 'optimizer step')}; the run: {counted(config.steps, 'step')}, "
        f"{counted(config.steps * updates, 'optimizer step')}"
    )


def describe_correction(config: Config) -> str:
    """Whether importance sampling corrects for the engine's own rounding, and why."""
    level, dtype, loss = config.loss.importance_sampling, config.policy.dtype, config.loss
    match dtype, level:
        case "float32", "off":
            why = "in float32, rollout engine and policy have nearly the same log-probs"
        case _, "off":
            why = (
                f"although rollout engine and policy round differently in {dtype}; "
                "loss.importance_sampling=token corrects for it"
            )
        case _:
            why = (
                f"each {level}'s ratio of policy to rollout engine, at most "
                f"{loss.importance_cap:g}, multiplies its advantage"
            )
    return f"importance sampling: {level} ({why})"


def describe_dynamic_sampling(config: Config) -> Iterator[str]:
    """What a step generates, which nobody knows before the run."""
    if settings := config.rollout.dynamic_sampling:
        rollouts = config.rollout.prompts * config.rollout.group_size
        yield (
            f"dynamic sampling: a step generates about {rollouts:,} rollouts / (share of mixed "
            f"groups), so twice its batch at a share of 1/2; a step that is not full after "
            f"{settings.max_rounds} rounds, at most {settings.max_rounds * rollouts:,} rollouts, "
            "ends the run"
        )


def check_model(config: Config) -> tuple[ShapeConfig | None, list[str], list[str]]:
    """The model's shape, and what was checked and what was not, in words.

    The shape is read from the model if it is on this machine; otherwise it is model.shape.
    """
    model, checked, unchecked = config.model, [], []
    shape, folder = model.shape, model_folder.on_this_machine(model.path, model.revision)
    if folder is None and pocket.is_made_here(model.path):
        checked.append(f"model {model.path}, which is made on first use")
    elif folder is None:
        unchecked.append(f"model {model.path}")
    else:
        from asymrl.engines import pretrained  # loads transformers

        shape = pretrained.read_shape(model, folder)
        checked.append(f"model {model.path}, by {folder / 'config.json'}")
        if config.policy.lora:
            pretrained.check_lora(model, config.policy.lora)
            checked.append(f"policy.lora.targets, {shown(config.policy.lora.targets)}")
        is_local = pocket.is_made_here(model.path) or os.path.isdir(model.path)
        if is_local and not model_folder.base_of_adapters(folder):
            sizes = (shape.vocab, shape.hidden) if shape else (None, None)
            model_folder.check_weights(folder, model.allow_pickle, sizes)
            checked[0] += compare_counts(shape, model_folder.count_stored(folder))
    if config.data.chat_template not in (None, RAW):
        from asymrl.engines import pretrained

        pretrained.read_chat_template(Path(config.data.chat_template))
        checked.append(f"data.chat_template {config.data.chat_template}")
    return shape, checked, unchecked


def compare_counts(shape: ShapeConfig | None, stored: int | None) -> str:
    """A remark if the memory estimate counts other parameters than the folder has."""
    estimated = memory.count_parameters(shape) if shape else None
    if not estimated or not stored or abs(estimated / stored - 1) <= DIFFERENT_COUNT:
        return ""
    return (
        f"; it has {stored:,} parameters, but the memory estimate, which assumes a plain decoder "
        f"with a gated MLP, counts {estimated:,}"
    )


def describe_level(difficulty: Any) -> str:
    """The difficulty of a task of reasoning-gym, in words."""
    if difficulty is None:
        return "at its default difficulty"
    return f"with {shown(difficulty)}" if isinstance(difficulty, dict) else f"at level {difficulty}"


def check_data(config: Config) -> Iterator[tuple[str, bool]]:
    """What is known of every source, in words, and whether it was checked."""
    data, evaluation = config.data, config.eval
    short_names(evaluation.benchmarks)  # raises UserError if two have one name
    sources = [("data.train", data.train, training_subset(data.train, data.config, data.split))]
    part = Subset(config=evaluation.config, split=evaluation.split)
    sources += [("eval.benchmarks", benchmark, part) for benchmark in evaluation.benchmarks]
    given = Fields(problem=data.problem_field, answer=data.answer_field)
    gym = GymSettings(**data.gym)
    for key, source, subset in sources:
        if source in SOURCES:
            yield f"{key} {source}, {SOURCES[source].id} on the hub", False
        elif is_hub_source(source) and not os.path.isdir(source):
            config_name = f", config {subset.config}" if subset.config else ""
            yield f"{key} {source}{config_name}, split {subset.split}", False
        elif source in pocket.DATA:
            yield f"{key} {source}, which is generated", True
        elif tasks := tasks_of(source):
            rows, _ = read_problem_rows(source, gym=gym, heldout=key != "data.train")
            levels = ", ".join(f"{task} {describe_level(gym.of_task(task))}" for task in tasks)
            yield f"{key} {source}, {counted(len(rows), 'generated problem')} ({levels})", True
        else:
            rows, fields = read_problem_rows(source, given, subset=subset)
            columns = f"columns {fields.problem} and {fields.answer}"
            yield f"{key} {source}, {counted(len(rows), 'problem')} in the {columns}", True


def marked(section: BaseModel, indent: str = "") -> Iterator[str]:
    """The section as lines of YAML; a value that differs from its default names it in a comment."""
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in type(section).model_fields.items()
        if not field.is_required()
    }
    if isinstance(section, MethodConfig):
        defaults |= parameter_defaults(section.find(section.name))
    plain = section.model_dump()
    for name, value in plain.items():
        inner = getattr(section, name)
        if isinstance(inner, BaseModel):
            yield f"{indent}{name}:"
            yield from marked(inner, f"{indent}  ")
            continue
        *first, last = to_yaml({name: value}).split("\n")
        yield from (f"{indent}{line}" for line in first)
        differs = name in defaults and inner != defaults[name]
        yield f"{indent}{last}" + (f"  # default: {shown(defaults[name])}" if differs else "")


def shown(default: Any) -> str:
    if isinstance(default, dict):
        default = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in default.items()}
    return to_yaml({"": default}).partition(":")[2].strip()


def to_yaml(entry: dict[str, Any]) -> str:
    """One key and its value, on one line except for texts of several lines."""
    style: dict[str, Any] = {"default_flow_style": True, "sort_keys": False, "width": math.inf}
    text = yaml.safe_dump(entry, allow_unicode=True, **style)
    if re.search("[\x85\u2028\u2029]", text):  # YAML reads them as line breaks
        text = yaml.safe_dump(entry, **style)
    return text.strip()[1:-1]
