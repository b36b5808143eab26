"""Loads a config: composes it from files, applies overrides, validates it, compares it.

Knows OmegaConf and the schema (schema.py), and nothing about what the settings do. Every mistake
is a `UserError`: one sentence with the key, the value and what is valid.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from functools import reduce
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from asymrl.config.schema import METHOD_SECTIONS, Config
from asymrl.errors import UserError, one_line, short_repr

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_CONFIG_BYTES = 1_000_000
# Of a config with its aliases expanded; the largest config in configs/ has 80 values.
MAX_CONFIG_VALUES, MAX_CONFIG_DEPTH = 10_000, 30
CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"
ROW_DIR = CONFIG_DIR / "rows"
COMPOSITION_KEYS = ("base", "row", "rows")  # of a config file; they are not part of the schema
# What YAML and OmegaConf raise for input that they cannot parse or merge.
YAML_ERRORS = (
    OmegaConfBaseException,
    yaml.YAMLError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    RecursionError,
)
# Keys that say where a run executes: it may resume on another machine.
PLACEMENT_KEYS = (
    "policy.backend",
    "policy.offload_optimizer",
    "policy.threads",
    "rollout.engine",
    "rollout.tensor_parallel",
    "rollout.gpu_memory_utilization",
    "rollout.enforce_eager",
)
# Keys that may change when a run resumes: they affect later steps, not the steps already done.
FREE_ON_RESUME = (
    *("steps", "tracking", "checkpoint", "deadlines", "warn"),
    *("eval.patience", "optim.max_skipped", *PLACEMENT_KEYS),
)


def load_config(config: str, overrides: Sequence[str] = (), row: str | None = None) -> Config:
    """The validated config of a path or a name, with `key.sub=value` overrides on top.

    config: a path, the name of a file in configs/, or `<model>_<row>`; the suffix `.yaml` is
    optional in names. row: one more row on top, a path or a name in configs/rows/.
    """
    for override in overrides:
        check_override(override)
    layers = compose(config, row)
    where = " + ".join(name for name, _ in layers)
    try:
        dotlist = OmegaConf.from_dotlist(list(overrides))
        merged = reduce(merge_configs, [*(settings for _, settings in layers), dotlist])
        plain = OmegaConf.to_container(merged)
    except YAML_ERRORS as error:
        raise UserError(f"{where}: {one_line(error)}") from None
    return validate_config(plain, where)


def composition(config: str, row: str | None = None) -> str:
    """The files that `load_config` merges, lowest first: "configs/x.yaml + configs/rows/y.yaml"."""
    return " + ".join(name for name, _ in compose(config, row))


def compose(config: str, row: str | None = None) -> list[tuple[str, Any]]:
    """The (name, settings) pairs that make up a config, in the order of merging.

    A file with `base:` gives the base, then its `row:` if it names one, then the file's own keys.
    A row of `<model>_<row>` and `row` come last. Each row is followed by the values that the
    `rows:` block of the base has for it.
    """
    path, row_in_name = find_config(config)
    settings, keys = read_config_file(path)
    if "base" in keys:
        if "rows" in keys:
            raise UserError(f"{path}: rows: is valid only in a model file, which has no base:")
        base = find_base(str(keys["base"]), path)
        base_settings, base_keys = read_config_file(base)
        if "base" in base_keys or "row" in base_keys:
            raise UserError(
                f"{path}: base: {base} has a base: or row: itself; only one level is supported"
            )
        layers = [(display_path(base), base_settings)]
        if "row" in keys:
            layers += row_layers(str(keys["row"]), base, base_keys)
        layers.append((display_path(path), settings))
    elif "row" in keys:
        raise UserError(f"{path}: row: requires base:, the model that the row is applied to")
    else:
        base, base_keys = path, keys
        layers = [(display_path(path), settings)]
    for name in (row_in_name, row):
        if name is not None:
            layers += row_layers(name, base, base_keys)
    return layers


def row_layers(row: str, base: Path, base_keys: dict[str, Any]) -> list[tuple[str, Any]]:
    """A row's file, and what the base's `rows:` block states for that row."""
    path = find_row(row)
    layers = [(display_path(path), read_config(path))]
    values_by_row = base_keys.get("rows", {})
    if not isinstance(values_by_row, dict):
        raise UserError(f"{base}: rows: must map names of rows to config keys")
    for name, values in values_by_row.items():
        find_row(str(name))
        if not isinstance(values, dict):
            raise UserError(f"{base}: rows.{name} must be a mapping of config keys to values")
    if path.stem in values_by_row:
        name = f"{display_path(base)} (rows.{path.stem})"
        layers.append((name, OmegaConf.create(values_by_row[path.stem])))
    return layers


def merge_configs(base: Any, top: Any) -> Any:
    """`top` over `base`. If `top` names another method, the base's parameters are dropped."""
    for section in METHOD_SECTIONS:
        name = OmegaConf.select(top, f"{section}.name")
        if name is not None and name != OmegaConf.select(base, f"{section}.name"):
            base.pop(section, None)
    return OmegaConf.merge(base, top)


def check_override(override: str) -> None:
    if not re.match(r"[A-Za-z_]\w*(\.\w+)*=", override):
        raise UserError(f"override {short_repr(override)} must have the form key.sub=value")
    try:
        check_yaml_size(override.partition("=")[2], f"override {short_repr(override)}")
        OmegaConf.from_dotlist([override])
    except YAML_ERRORS as error:
        raise UserError(
            f"override {short_repr(override)} is not valid YAML: {one_line(error)}"
        ) from None


def find_config(config: str) -> tuple[Path, str | None]:
    """The file of a config, and the row if `config` is `<model>_<row>` and has no file."""
    bare = config.removesuffix(".yaml")
    if path := first_file(Path(config), CONFIG_DIR / f"{bare}.yaml"):
        return path, None
    files, rows = yaml_names(CONFIG_DIR), yaml_names(ROW_DIR)
    if os.path.abspath(os.path.dirname(bare)) == str(CONFIG_DIR):  # raises for no name
        bare = os.path.basename(bare)
    if parts := split_name(bare, files, rows):
        return CONFIG_DIR / f"{parts[0]}.yaml", parts[1]
    composed = [f"{m}_{r}" for m in files if not split_name(m, files, rows) for r in rows]
    raise UserError(
        f"config {short_repr(config)} is neither a file nor a name in configs/ nor <model>_<row>; "
        + nearest_names(bare, [*dict.fromkeys([*files, *composed])], files)
    )


def find_row(row: str) -> Path:
    """The file of a row: a path, or a name in configs/rows/."""
    bare = row.removesuffix(".yaml")
    if path := first_file(Path(row), ROW_DIR / f"{bare}.yaml"):
        return path
    names = yaml_names(ROW_DIR)
    raise UserError(
        f"row {short_repr(row)} is neither a file nor a name in configs/rows/; "
        + nearest_names(bare, names, names)
    )


def find_base(base: str, path: Path) -> Path:
    """The file that `base:` in `path` names: relative to the folder of `path`, or in configs/."""
    bare, folder = base.removesuffix(".yaml"), path.parent
    if file := first_file(folder / base, folder / f"{bare}.yaml", CONFIG_DIR / f"{bare}.yaml"):
        return file
    names = yaml_names(CONFIG_DIR)
    raise UserError(
        f"{path}: base {short_repr(base)} is neither a file beside it nor a name in configs/; "
        + nearest_names(bare, names, names)
    )


def split_name(name: str, models: Sequence[str], rows: Sequence[str]) -> tuple[str, str] | None:
    """`<model>_<row>` as its two parts, the longest model first; None if `name` is not composed."""
    cuts = (cut for cut in range(len(name) - 1, 0, -1) if name[cut] == "_")
    parts = ((name[:cut], name[cut + 1 :]) for cut in cuts)
    return next(((m, r) for m, r in parts if m in models and r in rows), None)


def nearest_names(name: str, candidates: Sequence[str], valid: Sequence[str]) -> str:
    """The end of a sentence: up to three candidates like `name`, or else all valid names."""
    nearest = difflib.get_close_matches(name, candidates, n=3)
    return f"the nearest are {', '.join(nearest)}" if nearest else f"valid are {', '.join(valid)}"


def yaml_names(folder: Path) -> list[str]:
    return [path.stem for path in sorted(folder.glob("*.yaml"))]


def first_file(*candidates: Path) -> Path | None:
    return next((path for path in candidates if is_file(path)), None)


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system accepts
        return False


def display_path(path: Path) -> str:
    """Relative to the repository if the file is in configs/, otherwise as given."""
    root = CONFIG_DIR.parent
    return str(path.relative_to(root)) if path.is_relative_to(CONFIG_DIR) else str(path)


def read_config_file(path: Path) -> tuple[Any, dict[str, Any]]:
    """The settings of a config file, and apart from them its COMPOSITION_KEYS."""
    settings = read_config(path)
    plain: Any = OmegaConf.to_container(settings)
    keys = {key: plain[key] for key in COMPOSITION_KEYS if key in plain}
    for key in keys:
        del settings[key]
    return settings, keys


def read_config(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"config file {path} is larger than {MAX_CONFIG_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        check_yaml_size(text, str(path))
        loaded = OmegaConf.load(StringIO(text))
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror or error}") from None
    except YAML_ERRORS as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from None
    if not OmegaConf.is_dict(loaded):
        raise UserError(f"{path} must be a mapping of config keys to values")
    return loaded


def check_yaml_size(text: str, where: str) -> None:
    """Raise UserError for YAML that is unsafe to load.

    Expanded aliases could fill the memory, deep nesting could crash the recursive parser, and
    `${...}` could read the environment.
    """
    sizes: dict[str | None, int] = {}
    stack: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=Loader):
        anchor, size = getattr(event, "anchor", None), 0
        match event:
            case yaml.CollectionStartEvent():
                stack.append((anchor, 0))
                anchor = None  # defined only where the collection ends
            case yaml.CollectionEndEvent():
                anchor, size = stack.pop()
            case yaml.AliasEvent():
                if anchor not in sizes:
                    raise UserError(f"{where}: alias *{anchor} is undefined or recursive")
                size = sizes[anchor]
            case yaml.ScalarEvent():
                size = 1
                if "${" in event.value:
                    raise UserError(
                        f"{where}: {short_repr(event.value)}: interpolation is not supported; "
                        "write the value itself"
                    )
        if anchor:
            sizes[anchor] = size
        stack[-1] = stack[-1][0], stack[-1][1] + size
        if len(stack) > MAX_CONFIG_DEPTH or stack[-1][1] > MAX_CONFIG_VALUES:
            raise UserError(
                f"{where}: a config may have at most {MAX_CONFIG_VALUES:,} values and "
                f"{MAX_CONFIG_DEPTH} levels"
            )


def strings_in(tree: Any) -> Iterator[str]:
    """Every string in a tree of dicts and lists, including keys."""
    for key, node in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield str(key)
        if isinstance(node, dict | list):
            yield from strings_in(node)
        elif isinstance(node, str):
            yield node


def validate_config(plain: Any, where: str) -> Config:
    for text in strings_in(plain):
        if "\0" in text or text != text.encode(errors="ignore").decode():
            raise UserError(f"{where}: {short_repr(text)} contains a NUL or a lone surrogate")
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_error(error)}") from None


def describe_error(error: ValidationError) -> str:
    """The first error as one sentence; unknown keys first, since they explain missing keys."""
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = valid_keys(first["loc"][:-1])
        nearest = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        return f"unknown key {key}; {hint}valid keys are {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key} = {short_repr(first['input'])}: {message[0].lower()}{message[1:]}"


def valid_keys(location: Sequence[int | str]) -> list[str]:
    """The keys of the section at `location`, a path of pydantic's error."""
    section: Any = Config
    for part in location:
        if part not in section.model_fields:  # pydantic names the union member too
            continue
        annotation = section.model_fields[part].annotation
        section = next(a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields"))
    return list(section.model_fields)


def dump_config(config: Config) -> str:
    """The resolved config as YAML, as a run folder stores it in config.yaml."""
    plain = config.model_dump()
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    if re.search("[\x85\u2028\u2029]", text):  # YAML reads them as line breaks
        return yaml.safe_dump(plain, sort_keys=False)
    return text


def differing_keys(one: Config, other: Config) -> list[str]:
    """The dotted keys whose values differ, except those in FREE_ON_RESUME."""
    flat_one, flat_other = flatten(one.model_dump()), flatten(other.model_dump())
    return sorted(
        key
        for key in flat_one.keys() | flat_other.keys()
        if flat_one.get(key) != flat_other.get(key)
        and not {key, key.split(".")[0]} & set(FREE_ON_RESUME)
    )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, node in tree.items():
        if isinstance(node, dict) and node:
            flat |= flatten(node, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = node
    return flat
