"""Configs from files: how a base, a row and overrides are merged, and how errors read.

Knows OmegaConf and the schema (schema.py). Every error is a `UserError`: key, value, what is valid.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
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
MOST_BYTES = 1_000_000  # of a config file
MOST_VALUES, DEEPEST = 10_000, 30  # of a config, aliases written out; the largest here has 80
CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"
ROW_DIR = CONFIG_DIR / "rows"
# What YAML and OmegaConf raise for a file that they cannot make sense of.
BROKEN = (
    OmegaConfBaseException,
    yaml.YAMLError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    RecursionError,
)
# Which engines run it, and how they share the machine: a run may move to another machine.
WHERE_IT_RUNS = (
    "policy.backend",
    "policy.offload_optimizer",
    "policy.threads",
    "rollout.engine",
    "rollout.tensor_parallel",
    "rollout.gpu_memory_utilization",
    "rollout.enforce_eager",
)
# What may differ between a run and its continuation: it changes what comes, not what was.
FREE_ON_RESUME = (
    *("steps", "tracking", "checkpoint", "deadlines", "warn"),
    *("eval.patience", "optim.max_skipped", *WHERE_IT_RUNS),
)


def load_config(config: str, overrides: Sequence[str] = (), row: str | None = None) -> Config:
    """The config of a path or a bare name in configs/, with a row of configs/rows/ and then
    `key.sub=value` overrides on top."""
    path = find_config(config)
    where = str(path) if row is None else f"{path} with {find_config(row, ROW_DIR)}"
    for override in overrides:
        check_override(override)
    try:
        merged = with_base(path)
        if row is not None:
            merged = merge_configs(merged, read_config(find_config(row, ROW_DIR)))
        merged = merge_configs(merged, OmegaConf.from_dotlist(list(overrides)))
        plain = OmegaConf.to_container(merged)
    except BROKEN as error:
        raise UserError(f"{where}: {one_line(error)}") from None
    return validate_config(plain, where)


def check_override(override: str) -> None:
    if not re.match(r"[A-Za-z_]\w*(\.\w+)*=", override):
        raise UserError(f"override {short_repr(override)} is not of the form key.sub=value")
    try:
        check_yaml_size(override.partition("=")[2], f"override {short_repr(override)}")
        OmegaConf.from_dotlist([override])
    except BROKEN as error:
        raise UserError(f"override {short_repr(override)} is not YAML: {one_line(error)}") from None


def with_base(path: Path) -> Any:
    """A config file over the one that its `base:` names, if it names one."""
    own = read_config(path)
    if "base" not in own:
        return own
    base = read_config(path.parent / str(own.pop("base")))
    if "base" in base:
        raise UserError(f"{path}: its base has a base itself; one level is all there is")
    return merge_configs(base, own)


def merge_configs(base: Any, top: Any) -> Any:
    """`top` over `base`; another method starts from its own parameters, not from the base's."""
    for section in METHOD_SECTIONS:
        name = OmegaConf.select(top, f"{section}.name")
        if name is not None and name != OmegaConf.select(base, f"{section}.name"):
            base.pop(section, None)
    return OmegaConf.merge(base, top)


def find_config(config: str, folder: Path = CONFIG_DIR) -> Path:
    bare = config.removesuffix(".yaml")
    for candidate in (Path(config), folder / f"{bare}.yaml"):
        if is_file(candidate):
            return candidate
    names = [path.stem for path in sorted(folder.glob("*.yaml"))]
    nearest = difflib.get_close_matches(bare, names, n=3) or names
    raise UserError(
        f"config {short_repr(config)} is neither a file nor a name in "
        f"{folder.relative_to(CONFIG_DIR.parent)}/; the nearest are {', '.join(nearest)}"
    )


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def read_config(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"config file {path} is over {MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        check_yaml_size(text, str(path))
        loaded = OmegaConf.load(StringIO(text))
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror or error}") from None
    except BROKEN as error:
        raise UserError(f"{path} is not YAML: {one_line(error)}") from None
    if not OmegaConf.is_dict(loaded):
        raise UserError(f"{path} must be a mapping of config keys to values")
    return loaded


def check_yaml_size(text: str, where: str) -> None:
    """UserError for what would not end, or fill the memory, once its aliases are written out; for
    what is so deep that the parser of YAML, which is recursive, would crash; and for `${...}`."""
    sizes: dict[str | None, int] = {}
    open_: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=Loader):
        anchor, size = getattr(event, "anchor", None), 0
        match event:
            case yaml.CollectionStartEvent():
                open_.append((anchor, 0))
                anchor = None  # it names nothing before its end
            case yaml.CollectionEndEvent():
                anchor, size = open_.pop()
            case yaml.AliasEvent():
                if anchor not in sizes:
                    raise UserError(f"{where}: alias *{anchor} names nothing, or what it is in")
                size = sizes[anchor]
            case yaml.ScalarEvent():
                size = 1
                if "${" in event.value:  # could read the environment, or grow without bound
                    raise UserError(
                        f"{where}: {short_repr(event.value)}: interpolation is not supported; "
                        "write the value itself"
                    )
        if anchor:
            sizes[anchor] = size
        open_[-1] = open_[-1][0], open_[-1][1] + size
        if len(open_) > DEEPEST or open_[-1][1] > MOST_VALUES:
            raise UserError(
                f"{where}: no config has over {MOST_VALUES:,} values or {DEEPEST} levels"
            )


def texts(tree: Any) -> Iterator[str]:
    """Every text in a tree, keys too."""
    for key, node in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield str(key)
        if isinstance(node, dict | list):
            yield from texts(node)
        elif isinstance(node, str):
            yield node


def validate_config(plain: Any, where: str) -> Config:
    for text in texts(plain):
        if "\0" in text or text != text.encode(errors="ignore").decode():
            raise UserError(f"{where}: {short_repr(text)} holds a NUL, or half of a surrogate pair")
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        raise UserError(f"{where}: {sentence(error)}") from None


def sentence(error: ValidationError) -> str:
    """The first error as one sentence; unknown keys first, since they explain missing ones."""
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = valid_keys(first["loc"][:-1])
        nearest = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        return f"unknown key {key}; {hint}valid here: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key} = {short_repr(first['input'])}: {message[0].lower()}{message[1:]}"


def valid_keys(location: Sequence[int | str]) -> list[str]:
    section: Any = Config
    for part in location:
        if part not in section.model_fields:  # the name of a union's member, entered already
            continue
        annotation = section.model_fields[part].annotation
        section = next(a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields"))
    return list(section.model_fields)


def dump_config(config: Config) -> str:
    """The resolved config as YAML: what a run directory keeps as config.yaml."""
    plain = config.model_dump()
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    if re.search("[\x85\u2028\u2029]", text):  # written as they are, read as line breaks
        return yaml.safe_dump(plain, sort_keys=False)
    return text


def differing_keys(one: Config, other: Config) -> list[str]:
    """Dotted keys whose values differ, but for those in FREE_ON_RESUME."""
    flat_one, flat_other = flatten(one.model_dump()), flatten(other.model_dump())
    return sorted(
        key
        for key in flat_one.keys() | flat_other.keys()
        if flat_one.get(key) != flat_other.get(key)
        and not {key, key.split(".")[0]} & set(FREE_ON_RESUME)
    )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, node in tree.items():
        if isinstance(node, dict) and node:
            flat |= flatten(node, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = node
    return flat
