"""Loads a config: composes it from files, applies overrides, validates it, compares it.

Knows OmegaConf and the schema (schema.py), and nothing about what the settings do. Every mistake
is a `UserError`: one sentence with the key, the value and what is valid.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

import yaml
from omegaconf import OmegaConf
from pydantic import ValidationError

from asymrl.config.mistakes import COMMAND_LINE, explain
from asymrl.config.read import YAML_ERRORS, check_yaml, flatten, read_config
from asymrl.config.schema import METHOD_SECTIONS, Config
from asymrl.errors import UserError, one_line, short_repr
from asymrl.types import frozen

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "configs"  # in a wheel (setup.py); a checkout has them beside the package
CONFIG_DIR = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "configs"
ROW_DIR = CONFIG_DIR / "rows"
# Keys that may change when a run resumes: those that affect only later steps, and those that say
# where the run executes, because it may resume on another machine.
FREE_ON_RESUME = {
    *("steps", "tracking", "checkpoint", "deadlines", "warn", "eval.patience", "optim.max_skipped"),
    *("policy.backend", "policy.offload_optimizer", "policy.offload_during_rollouts"),
    *("policy.threads", "rollout.engine"),
    *("rollout.tensor_parallel", "rollout.gpu_memory_utilization", "rollout.enforce_eager"),
    "rollout.per_sample_seeds",
    "rollout.dynamic_sampling.max_rounds",
}


def load_config(
    config: str,
    overrides: Sequence[str] = (),
    row: str | None = None,
    source: str = COMMAND_LINE,
) -> Config:
    """The validated config of a path or a name, with `key.sub=value` overrides on top.

    config: a path, the name of a file in configs/, or `<model>_<row>`; the suffix `.yaml` is
    optional in names. row: one more row on top, a path or a name in configs/rows/. source: where
    the overrides are from, for error messages.
    """
    for override in overrides:
        check_override(override, source)
    layers = compose(config, row)
    where = " + ".join(name for name, _ in layers)
    try:
        dotlist = OmegaConf.from_dotlist(list(overrides))
        merged = reduce(merge_configs, [*(settings for _, settings in layers), dotlist])
        plain = OmegaConf.to_container(merged)
    except YAML_ERRORS as error:
        raise UserError(f"{where}: {one_line(error)}") from None
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        named = [*layers, (source, dotlist)]
        settings = [(name, OmegaConf.to_container(layer)) for name, layer in named]
        raise UserError(explain(error, settings, yaml_names(ROW_DIR))) from None


def composition(config: str, row: str | None = None) -> str:
    """The files that `load_config` merges, lowest first: "configs/x.yaml + configs/rows/y.yaml"."""
    return " + ".join(name for name, _ in compose(config, row))


@frozen
class ConfigFile:
    """A file in YAML: its settings, and apart from them the keys `base:`, `row:` and `rows:`."""

    path: Path
    settings: Any
    base: str | None = None
    row: str | None = None
    rows: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Relative to the repository if the file is in configs/, otherwise the path as it is."""
        inside = self.path.is_relative_to(CONFIG_DIR)
        return str(self.path.relative_to(CONFIG_DIR.parent) if inside else self.path)


def compose(config: str, row: str | None = None) -> list[tuple[str, Any]]:
    """The (name, settings) pairs that make up a config, in the order of merging.

    A file with `base:` gives the base, then its `row:` if it names one, then the file's own keys.
    A row of `<model>_<row>` and `row` come last. Each row is followed by the values that the
    `rows:` block of the base has for it.
    """
    path, row_in_name = find_config(config)
    file = model = read_config_file(path)
    if file.base is not None:
        if file.rows is not None:
            raise UserError(f"{path}: rows: is valid only in a model file, which has no base:")
        model = read_config_file(find_base(file.base, path))
        if model.base is not None or model.row is not None:
            raise UserError(
                f"{path}: base: {model.path} has a base: or row: itself; only one level is "
                "supported"
            )
    elif file.row is not None:
        raise UserError(f"{path}: row: requires base:, the model that the row is applied to")
    layers = [(model.name, model.settings)]
    if file is not model:
        layers += [*row_layers(file.row, model), (file.name, file.settings)]
    return [*layers, *row_layers(row_in_name, model), *row_layers(row, model)]


def row_layers(row: str | None, model: ConfigFile) -> list[tuple[str, Any]]:
    """A row's file, and what the model's `rows:` block states for that row; [] without a row."""
    if row is None:
        return []
    file = ConfigFile(path=find_row(row), settings=read_config(find_row(row)))
    layers = [(file.name, file.settings)]
    for name, values in (model.rows or {}).items():
        find_row(str(name))
        if not isinstance(values, dict):
            raise UserError(f"{model.path}: rows.{name} must be a mapping of config keys to values")
        if name == file.path.stem:
            layers.append((f"{model.name} (rows.{name})", OmegaConf.create(values)))
    return layers


def merge_configs(base: Any, top: Any) -> Any:
    """`top` over `base`. If `top` names another method, the base's parameters of the method are
    dropped; if it names another model, the base's revision and shape, which belong to the base's
    model."""
    path = OmegaConf.select(top, "model.path")
    if path not in (None, OmegaConf.select(base, "model.path", default=path)):
        for key in ("revision", "shape"):
            base.model.pop(key, None)
    for section, method in METHOD_SECTIONS.items():
        key, default = f"{section}.name", method.model_fields["name"].get_default()
        name = OmegaConf.select(top, key)
        if name not in (None, OmegaConf.select(base, key, default=default)):
            settings = base.get(section)
            for key in [*settings] if OmegaConf.is_dict(settings) else []:
                if key not in method.model_fields:
                    settings.pop(key)
    return OmegaConf.merge(base, top)


def check_override(override: str, source: str = COMMAND_LINE) -> None:
    if not re.match(r"[A-Za-z_]\w*(\.\w+)*=", override):
        raise UserError(f"{source}: {short_repr(override)} must have the form key.sub=value")
    try:
        check_yaml(override.partition("=")[2], f"{source}: {short_repr(override)}")
        OmegaConf.from_dotlist([override])
    except YAML_ERRORS as error:
        raise UserError(
            f"{source}: {short_repr(override)} is not valid YAML: {one_line(error)}"
        ) from None


def find_config(config: str) -> tuple[Path, str | None]:
    """The file of a config, and the row if `config` is `<model>_<row>` and has no file."""
    bare = config.removesuffix(".yaml")
    if path := first_file(Path(config), CONFIG_DIR / f"{bare}.yaml"):
        return path, None
    check_beside("config", config)
    files, rows = yaml_names(CONFIG_DIR), yaml_names(ROW_DIR)
    if os.path.abspath(os.path.dirname(bare)) == str(CONFIG_DIR):  # raises for no name
        bare = os.path.basename(bare)
    if parts := split_name(bare, files, rows):
        return CONFIG_DIR / f"{parts[0]}.yaml", parts[1]
    composed = [f"{m}_{r}" for m in files if not split_name(m, files, rows) for r in rows]
    raise_unknown(
        f"config {short_repr(config)} is neither a file nor a name in configs/ nor <model>_<row>",
        bare,
        [*dict.fromkeys([*files, *composed])],
        files,
    )


def find_row(row: str) -> Path:
    """The file of a row: a path, or a name in configs/rows/."""
    bare, names = row.removesuffix(".yaml"), yaml_names(ROW_DIR)
    sentence = f"row {short_repr(row)} is neither a file nor a name in configs/rows/"
    if file := first_file(Path(row), ROW_DIR / f"{bare}.yaml"):
        return file
    check_beside("row", row)
    raise_unknown(sentence, bare, names, names)


def check_beside(what: str, path: str) -> None:
    """UserError for a path that no file has, if its folder exists and is not that of the names: it
    has the files beside it that are like it, or else all of them."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) or Path(folder).resolve() in (CONFIG_DIR, ROW_DIR):
        return
    beside = sorted(str(file) for file in Path(folder).glob("*.y*ml"))
    sentence = f"{what} {short_repr(path)} does not exist"
    if not beside:
        raise UserError(f"{sentence}; {folder} has no .yaml files")
    raise_unknown(sentence, path, beside, beside)


def find_base(base: str, path: Path) -> Path:
    """The file that `base:` in `path` names: relative to the folder of `path`, or in configs/."""
    bare, folder, names = base.removesuffix(".yaml"), path.parent, yaml_names(CONFIG_DIR)
    sentence = f"{path}: base {short_repr(base)} is neither a file beside it nor a name in configs/"
    file = first_file(folder / base, folder / f"{bare}.yaml", CONFIG_DIR / f"{bare}.yaml")
    return file or raise_unknown(sentence, bare, names, names)


def split_name(name: str, models: Sequence[str], rows: Sequence[str]) -> tuple[str, str] | None:
    """`<model>_<row>` as its two parts, the longest model first; None if `name` is not composed."""
    pairs = ((m, r) for m in sorted(models, key=len, reverse=True) for r in rows)
    return next((pair for pair in pairs if "_".join(pair) == name), None)


def raise_unknown(
    sentence: str, name: str, candidates: Sequence[str], valid: Sequence[str]
) -> NoReturn:
    """UserError with up to three candidates that are like `name`, or else with all valid names."""
    nearest = difflib.get_close_matches(name, candidates, n=3)
    names = f"the nearest are {', '.join(nearest)}" if nearest else f"valid are {', '.join(valid)}"
    raise UserError(f"{sentence}; {names}")


def yaml_names(folder: Path) -> list[str]:
    return [path.stem for path in sorted(folder.glob("*.yaml"))]


def first_file(*candidates: Path) -> Path | None:
    # Path.is_file raises for a name that no file can have
    return next((path for path in candidates if os.path.isfile(path)), None)


def read_config_file(path: Path) -> ConfigFile:
    settings = read_config(path)
    plain: Any = OmegaConf.to_container(settings)
    keys = {key: plain[key] for key in ("base", "row", "rows") if key in plain}
    for key, value in keys.items():
        del settings[key]
        if key == "rows" and not isinstance(value, dict):
            raise UserError(f"{path}: rows: must map names of rows to config keys")
        if key != "rows" and not isinstance(value, str):
            raise UserError(f"{path}: {key}: must be a path or a name, got {short_repr(value)}")
    return ConfigFile(path=path, settings=settings, **keys)


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
        and not {key, key.split(".")[0]} & FREE_ON_RESUME
    )
