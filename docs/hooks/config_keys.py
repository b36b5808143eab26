"""The reference of config keys, made from the schema; and links to it wherever a page names a key.

Types and bounds are those of the schema, meanings the docstrings under its keys.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any, get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from asymrl.config.schema import METHOD_SECTIONS, Config

PAGE = "reference/config.md"
SCHEMA = Config.model_json_schema()
UNBOUNDED = 10**12  # bounds from here on only keep products small
HEAD = """# Every config key

Made from `asymrl/config/schema.py`. A key is set in a config file or as `key.sub=value` on the
command line; [Config files](../configs.md) says how files are composed. *Required* keys have no
default. `null` is written `null` in YAML. Unknown keys and values of another type end a run before
it starts, in one sentence.
"""
# Not in links, headings, listings and the first column of a table
LINKED = re.compile(
    r"<a .*?</a>|<h\d.*?</h\d>|<pre.*?</pre>|<tr>\s*<td.*?</td>"
    r"|<code>([a-z_]+\.[a-z_.]+)(?:=[^<]*)?</code>",
    re.DOTALL,
)
CODE_IN_CELL = re.compile(r"<td.*?</td>", re.DOTALL)
BREAK = re.compile(r"(?<=[._])(?=\w)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, PAGE, content=reference()))
    return files


def on_page_content(content: str, page: Page, **_: object) -> str:
    """Link every `key.sub` and `key.sub=value` to the row of its key."""
    if page.file.src_uri.startswith("source/"):
        return content
    target = os.path.relpath("reference/config.html", os.path.dirname(page.file.dest_uri) or ".")

    def link(match: re.Match[str]) -> str:
        if match[1] not in KEYS:
            return match[0]
        return f'<a href="{target}#{match[1]}">{match[0]}</a>'

    return CODE_IN_CELL.sub(breakable, LINKED.sub(link, content))


def breakable(cell: re.Match[str]) -> str:
    """Names in a table may break after a dot or an underscore."""
    return re.sub(r"(?<=<code>)[^<]*", lambda name: BREAK.sub("<wbr>", name[0]), cell[0])


def reference() -> str:
    """The page. One table for each section, nested sections after the one that has them."""
    parts = [HEAD, heading("Keys of a run"), table("", Config)]
    for path, section in SECTIONS.items():
        parts += [heading(path), " ".join((section.__doc__ or "").split()), table(path, section)]
        if path in METHOD_SECTIONS:
            parts.append(
                "Its other keys are the keyword parameters of the function, listed under "
                "[Methods and formulas](methods.md)."
            )
    return "\n\n".join(parts) + "\n"


def heading(path: str) -> str:
    return f"{'#' * (2 + path.count('.'))} {f'`{path}`' if path in SECTIONS else path}"


def table(path: str, section: type[BaseModel]) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        key = f"{path}.{name}".lstrip(".")
        if field.annotation is SECTIONS.get(key):
            continue  # it has no value of its own
        default = "*required*" if field.is_required() else code(as_yaml(field.get_default()))
        cells = f'<span id="{key}"></span>`{name}`', value_of(key, section), default
        meaning = " ".join((field.description or "").split())
        rows.append(f"| {' | '.join(cells)} | {escape(meaning)} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def value_of(key: str, section: type[BaseModel]) -> str:
    """The valid values of a key, in words."""
    schema = SCHEMA if section is Config else SCHEMA["$defs"][section.__name__]
    return describe(schema["properties"][key.rpartition(".")[2]], key)


def describe(node: dict[str, Any], key: str) -> str:
    match node:
        case {"anyOf": choices}:
            return " or ".join(describe(choice, key) for choice in choices)
        case {"$ref": _} if key in SECTIONS:
            return f"the keys of [`{key}`](#{anchor(key)})"
        case {"$ref": name}:
            fields = SCHEMA["$defs"][name.rpartition("/")[2]]["properties"]
            return code("{" + ", ".join(f"{field}: ..." for field in fields) + "}")
        case {"const": value}:
            return code(as_yaml(value))
        case {"enum": values}:
            return ", ".join(code(as_yaml(value)) for value in values)
        case {"type": "integer" | "number" as kind}:
            return kind + bounds(node)
        case {"type": "array", "items": items, "minItems": count}:
            return f"list of {count} of: {describe(items, key)}"
        case {"type": "array", "items": items}:
            return f"list of: {describe(items, key)}"
        case {"type": "object", "patternProperties": values}:
            return "name -> " + describe(next(iter(values.values())), key)
        case {"type": kind}:
            names = {"string": "text", "boolean": "true or false", "object": "mapping"}
            return names.get(kind, code(kind))
        case _:
            return "see there"


def bounds(node: dict[str, Any]) -> str:
    low = {"minimum": "from", "exclusiveMinimum": "above"}
    high = {"maximum": "to", "exclusiveMaximum": "below"}
    words = [f"{word} {node[key]:g}" for key, word in low.items() if key in node]
    words += [
        f"{word} {node[key]:g}"
        for key, word in high.items()
        if key in node and node[key] < UNBOUNDED
    ]
    return " " + " ".join(words) if words else ""


def as_yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, BaseModel):
        return as_yaml(value.model_dump())
    if isinstance(value, str) and value:
        return value
    return json.dumps(value)


def code(text: str) -> str:
    return f"`{text}`"


def escape(text: str) -> str:
    return re.sub(r"([<>|*_\[\]{}])", r"\\\1", text).replace("\\<", "&lt;").replace("\\>", "&gt;")


def anchor(key: str) -> str:
    """The id that Markdown gives to the heading of a section."""
    return key.replace(".", "")


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """(dotted path, model) of every section and nested section."""
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel) and name != "select":
                key = f"{path}.{name}".lstrip(".")
                yield key, part
                yield from sections(part, key)


SECTIONS = dict(sections(Config))
KEYS = {name for name in Config.model_fields if name not in SECTIONS} | {
    f"{path}.{name}" for path, section in SECTIONS.items() for name in section.model_fields
}
