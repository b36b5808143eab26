"""The page of methods: every function of asymrl/algo that a config can name, from its docstring."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, get_args

from formulas import markdown_of
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from asymrl.algo import advantages, diagnostics, loss, overlong, reweight, schedules
from asymrl.config.load import ROW_DIR
from asymrl.config.read import read_config
from asymrl.config.schema import METHOD_SECTIONS, keyword_parameters

PAGE = "reference/methods.md"
HEAD = """# Methods and formulas

Made from the docstrings in `asymrl/algo`. A config names a function in its section `advantage`,
`reweight`, `loss` or `schedule`; the section's other keys are the function's parameters. A row is a
combination of them with a name ([All methods](../methods.md)); how to write one of your own is
[here](../guides/method.md).
"""
KINDS = (
    ("advantage", "Advantage estimators", advantages, advantages.ADVANTAGES),
    ("reweight", "Token reweightings", reweight, reweight.REWEIGHT),
    ("loss", "Token losses", loss, loss.LOSSES),
    ("schedule", "Schedules", schedules, schedules.SCHEDULES),
)
OTHERS = (
    (loss.kl_to_reference, "loss.kl_estimator"),
    (loss.loss_denominators, "loss.aggregation"),
    (loss.importance_weights, "loss.importance_sampling"),
    (overlong.overlong_penalty, "rollout.overlong"),
    (diagnostics.kappa, "diag/kappa"),
    (diagnostics.channel_mass, "diag/mass_positive"),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, PAGE, content=methods()))
    return files


def methods() -> str:
    parts = [HEAD]
    for section, title, module, functions in KINDS:
        parts += [f"## {title}", introduction(module)]
        for name, function in functions.items():
            parts += [f"### `{name}` {{#{section}-{name}}}", markdown_of(function)]
            parts += [parameters(section, function), rows(section, name)]
    parts.append("## What else enters the loss and the metrics")
    for documented, key in OTHERS:
        parts += [f"### `{key}`", markdown_of(documented)]
    return "\n\n".join(part for part in parts if part) + "\n"


def introduction(module: ModuleType) -> str:
    """What is common to all functions of a module: its docstring without the first sentence."""
    return markdown_of(module).partition("\n\n")[2]


def parameters(section: str, function: Callable[..., Any]) -> str:
    lines = [f"| `{section}.` | default | choices |", "|---|---|---|"]
    for parameter in keyword_parameters(function):
        missing = parameter.default is parameter.empty
        default = (
            "*required*"
            if missing
            else f"`{parameter.default:.6g}`"
            if isinstance(parameter.default, float)
            else f"`{parameter.default}`"
        )
        choices = ", ".join(f"`{choice}`" for choice in get_args(parameter.annotation))
        lines.append(f"| `{parameter.name}` | {default} | {choices or 'a number'} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def rows(section: str, name: str) -> str:
    """The rows that use a function. What a row does not name is the default."""
    default = METHOD_SECTIONS[section].model_fields["name"].get_default()
    used = [row for row, config in ROWS.items() if named(config, section) == name]
    if not used or name == default:
        return ""
    return "Rows: " + ", ".join(f"`{row}`" for row in used) + "."


def named(config: Mapping[str, Any], section: str) -> str | None:
    return config.get(section, {}).get("name")


def read_row(name: str) -> Mapping[str, Any]:
    return dict(read_config(ROW_DIR / f"{name}.yaml"))


ROWS = {path.stem: read_row(path.stem) for path in sorted(ROW_DIR.glob("*.yaml"))}
