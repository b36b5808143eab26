"""Links out of docs/ work in the site: pages are made of the files that they name.

Some Markdown files beside docs/ are pages of the site (PAGES). Every other file or folder of the
repository that a page links to becomes a page with its text, source/<path>.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {
    "configs/README.md": "configs.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(?<=\]\()([^)#\s]+)((?:#[^)\s]*)?)(?=\))")
NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".md": "markdown", ".toml": "toml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """No 404 page: its links need a server."""
    config.theme.static_templates.discard("404.html")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text()
        files.append(File.generated(config, page, content=text))
    targets = {
        target
        for file in files.documentation_pages()
        for target in outside(file.content_string, file.src_uri)
    }
    for target in sorted(targets):
        page = File.generated(config, f"source/{target}.md", content=source_page(target))
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite the links that leave docs/, and all links of pages from beside it."""
    here = page.file.src_uri

    def rewrite(match: re.Match[str]) -> str:
        target = repository_path(match[1], here)
        if target is None:
            return match[0]
        inside = PAGES.get(target) or target.removeprefix("docs/")
        uri = inside if inside != target else f"source/{target}.md"
        return os.path.relpath(uri, os.path.dirname(here) or ".") + match[2]

    return LINK.sub(rewrite, markdown)


def outside(markdown: str, here: str) -> Iterator[str]:
    """The files and folders that a page links to, other than pages, relative to the repository."""
    for link in LINK.finditer(markdown):
        target = repository_path(link[1], here)
        if target and target not in PAGES and not target.startswith("docs/"):
            yield target


def repository_path(link: str, here: str) -> str | None:
    """What a link on a page names, relative to the repository. None if nothing is there: the
    build's own check then reports the link."""
    source = ROOT / SOURCES[here] if here in SOURCES else DOCS / here
    target = Path(os.path.normpath(source.parent / link))
    if ":" in link or not target.exists() or not target.is_relative_to(ROOT):
        return None
    return target.relative_to(ROOT).as_posix()


def source_page(path: str) -> str:
    """The page of a file, or of all files in a folder."""
    target = ROOT / path
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    texts = [notebook(file) if file.suffix == ".ipynb" else fenced(file) for file in files]
    return "\n\n".join([NOT_SEARCHED, f"# `{path}`", *texts])


def fenced(file: Path) -> str:
    language, name = LANGUAGES.get(file.suffix, ""), file.relative_to(ROOT).as_posix()
    return f'````{language} title="{name}"\n{file.read_text()}````'


def notebook(file: Path) -> str:
    """Text and code of a notebook's cells, without their output."""
    texts = []
    for cell in json.loads(file.read_text())["cells"]:
        text = "".join(cell["source"])
        texts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(texts)
