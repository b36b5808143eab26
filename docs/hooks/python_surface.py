"""The page of `import asymrl`: signatures and docstrings of all that it offers."""

import inspect
import re

from formulas import markdown_of
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import asymrl
from asymrl import types
from asymrl.algo.schedules import StepStats

PAGE = "reference/python.md"
HEAD = """# From Python

Made from the docstrings of `asymrl/api.py`. The [notebook](../../examples/quickstart.ipynb) shows
them at work.
"""
INPUTS = """## What functions of your own get

An estimator gets `Groups`, a reweighting `TokenGroups`, a loss `LossInputs`, a schedule a state and
`StepStats` ([Your own method](../guides/method.md)).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, PAGE, content=surface()))
    return files


def surface() -> str:
    parts = [HEAD]
    for name in sorted(asymrl.__all__, key=str.lower):
        parts += entry(f"asymrl.{name}", getattr(asymrl, name))
    parts.append(INPUTS)
    for cls in (types.Groups, types.TokenGroups, types.LossInputs, StepStats):
        parts += entry(cls.__name__, cls)
    return "\n\n".join(parts) + "\n"


def entry(name: str, documented: object) -> list[str]:
    parts = [f"## `{name}`" if "." in name else f"### `{name}`"]
    if inspect.isfunction(documented):
        source = inspect.getsource(documented)
        signature = re.match(r"def .*?(?=:\n    r?\"\"\")", source, re.DOTALL)
        assert signature, f"{name} has no docstring"
        parts.append(f"```python\n{signature[0]}\n```")
    return [*parts, markdown_of(documented)]
