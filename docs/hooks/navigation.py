"""Pages that mkdocs.yml does not name, such as those of a new study, come last in Results."""

from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import Files


@event_priority(-50)  # after the hooks that make pages
def on_files(files: Files, config: MkDocsConfig) -> Files:
    assert config.nav
    named = set(pages(config.nav))
    results = next(entry["Results"] for entry in config.nav if "Results" in entry)
    for file in files.documentation_pages():
        if file.src_uri not in named and not file.src_uri.startswith("source/"):
            results.append(file.src_uri)
    return files


def pages(nav: Any) -> Iterator[str]:
    """Every page that a navigation names."""
    match nav:
        case str():
            yield nav
        case dict():
            yield from pages(list(nav.values()))
        case list():
            for entry in nav:
                yield from pages(entry)
