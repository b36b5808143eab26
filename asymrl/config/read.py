"""Reads YAML from files and overrides that nobody has checked. Knows no schema and no torch."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asymrl.errors import UserError, one_line, short_repr

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_CONFIG_BYTES = 1_000_000
# Of a config with its aliases expanded; the largest config in configs/ has 80 values.
MAX_CONFIG_VALUES, MAX_CONFIG_DEPTH = 10_000, 30
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


def read_config(path: Path) -> Any:
    """The mapping in a YAML file, as an OmegaConf DictConfig."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"config file {path} is larger than {MAX_CONFIG_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        check_yaml(text, str(path))
        loaded = OmegaConf.load(StringIO(text))
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror or error}") from None
    except YAML_ERRORS as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from None
    if not OmegaConf.is_dict(loaded):
        raise UserError(f"{path} must be a mapping of config keys to values")
    return loaded


def check_yaml(text: str, where: str) -> None:
    """Raise UserError for YAML that is unsafe to load.

    Expanded aliases could fill the memory, deep nesting could crash the recursive parser, `${...}`
    could read the environment, and no file name can contain a NUL.
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
                if (
                    "\0" in event.value
                    or event.value != event.value.encode(errors="ignore").decode()
                ):
                    raise UserError(
                        f"{where}: {short_repr(event.value)} contains a NUL or a lone surrogate"
                    )
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


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, node in tree.items():
        if isinstance(node, dict) and node:
            flat |= flatten(node, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = node
    return flat
