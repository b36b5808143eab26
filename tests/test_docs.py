"""The documentation: the site builds strictly, works without a network, and what it says is so."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urldefrag

import pytest
from pydantic import BaseModel

from asymrl.algo.advantages import ADVANTAGES
from asymrl.algo.loss import LOSSES
from asymrl.algo.reweight import REWEIGHT
from asymrl.algo.schedules import SCHEDULES
from asymrl.config.load import load_config
from asymrl.config.schema import Config, MethodConfig, keyword_parameters
from tests.helpers.paths import ROOT

DOCS = ROOT / "docs"
GUIDES = sorted([*(DOCS / "guides").glob("*.md"), DOCS / "index.md"])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
METHODS = {
    "advantage": ADVANTAGES,
    "reweight": REWEIGHT,
    "loss": LOSSES,
    "schedule": SCHEDULES,
}


class Built(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(given["href"])
        elif tag in ("script", "img", "iframe", "source") and "src" in given:
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Built]:
    return {page: Built(page) for page in site.rglob("*.html")}


@pytest.mark.slow
def test_every_link_and_every_anchor_is_there(pages: dict[Path, Built]) -> None:
    dead = []
    for page, built in pages.items():
        for link in (*built.links, *built.loaded):
            address, fragment = urldefrag(link)
            if ":" in address:
                continue
            target = (page.parent / unquote(address)).resolve() if address else page
            there = target.is_file()
            if there and fragment and target in pages:
                there = unquote(fragment) in pages[target].ids
            if not there:
                dead.append(f"{page.name} -> {link}")
    assert not dead


@pytest.mark.slow
def test_no_page_loads_anything_from_a_network(site: Path, pages: dict[Path, Built]) -> None:
    for page, built in pages.items():
        assert not [one for one in built.loaded if re.match(r"(\w+:)?//", one)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", sheet.read_text()), sheet


@pytest.mark.slow
def test_mathematics_is_rendered_when_the_site_is_built(site: Path) -> None:
    for name in ("concepts.html", "reference/methods.html"):
        text = (site / name).read_text()
        assert text.count("<math") > 20
        assert "arithmatex" not in text and "$$" not in text and r"\text" not in text


@pytest.mark.slow
def test_the_reference_has_every_key_and_every_method(pages: dict[Path, Built], site: Path) -> None:
    keys = pages[site / "reference/config.html"].ids
    assert {key for key, _ in leaves(Config)} <= keys
    names = {f"{kind}-{name}" for kind, functions in METHODS.items() for name in functions}
    assert names <= pages[site / "reference/methods.html"].ids


@pytest.mark.slow
def test_a_key_in_a_guide_leads_to_the_reference(pages: dict[Path, Built], site: Path) -> None:
    links = pages[site / "guides/model.html"].links
    assert "../reference/config.html#rollout.max_tokens" in links


def leaves(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, description) of everything but sections, which their class describes."""
    for name, field in model.model_fields.items():
        key = f"{path}.{name}".lstrip(".")
        sections = [
            one
            for one in (field.annotation, *get_args(field.annotation))
            if isinstance(one, type) and issubclass(one, BaseModel)
        ]
        if sections and name != "select":
            assert sections[0].__doc__, f"{key} has no docstring"
            yield from leaves(sections[0], key)
            if field.annotation is sections[0]:
                continue
        yield key, field.description or ""


def test_every_config_key_has_one_sentence() -> None:
    for key, text in leaves(Config):
        assert text.endswith(".") and text[0].isupper(), f"{key}: {text!r} under it"
        assert not re.search(r"[a-z]\. [A-Z]", text), f"{key} has more than one sentence"


def known_keys() -> set[str]:
    """Every dotted key of a config, the parameters of methods included."""
    keys = {key for key, _ in leaves(Config)} | set(Config.model_fields)
    for kind, functions in METHODS.items():
        for function in functions.values():
            keys |= {f"{kind}.{parameter.name}" for parameter in keyword_parameters(function)}
    return keys


def rows(page: str) -> list[list[str]]:
    """The cells of the tables that put another library's keys beside ours."""
    lines = (DOCS / "guides" / page).read_text().splitlines()
    table = [re.split(r"\s*\|\s*", line)[1:-1] for line in lines if line.startswith("|")]
    return [cells for cells in table if cells[0].startswith("`")]


@pytest.mark.parametrize("page", ["from-trl.md", "from-verl.md"])
def test_our_column_names_keys_that_exist(page: str) -> None:
    keys, options = known_keys(), {"--resume", "--output-dir"}
    for cells in rows(page):
        for name in re.findall(r"`([^`]+)`", cells[1]):
            key, _, value = name.partition("=")
            assert key in keys | options, f"{page}: {name}"
            kind = key.removesuffix(".name")
            if value and kind in METHODS:
                assert value in METHODS[kind], f"{page}: {name}"


def test_the_column_of_trl_names_fields_of_its_config() -> None:
    from trl.trainer.grpo_config import GRPOConfig

    fields = {field.name for field in dataclasses.fields(GRPOConfig)}
    named = {
        name.partition("=")[0]
        for cells in rows("from-trl.md")
        for name in re.findall(r"`([^`]+)`", cells[0])
    }
    assert named <= fields and len(named) > 40


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `train.py` of every command in a page's listings."""
    for _, text in FENCE.findall(page.read_text()):
        for line in text.replace("\\\n", " ").splitlines():
            if "train.py" in line:
                yield shlex.split(line.partition("train.py")[2], comments=True)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_command_in_a_guide_has_a_valid_config(page: Path, tmp_path: Path) -> None:
    """Configs in a file of the reader's own are left out."""
    (tmp_path / "mine.py").write_text(snippets(DOCS / "guides" / "method.md"))
    (tmp_path / "reward.py").write_text(snippets(DOCS / "guides" / "reward.md"))
    for words in commands(page):
        name = words[words.index("--config") + 1]
        settings = [word for word in words if "=" in word and not word.startswith("-")]
        if not name.startswith("mine"):
            load_config(name, [own_file(word, tmp_path) for word in settings])


def own_file(setting: str, folder: Path) -> str:
    """A setting whose function is in the reader's own file, which is in `folder` here."""
    if "verifier.name" in setting:
        return setting.replace("mine.py", str(folder / "reward.py"))
    return setting.replace("mine.py", str(folder / "mine.py"))


def snippets(page: Path) -> str:
    """The functions that a page defines."""
    texts = [text for language, text in FENCE.findall(page.read_text()) if language == "python"]
    return "\n\n".join(text for text in texts if re.search(r"^def ", text, re.MULTILINE))


def test_the_functions_of_the_guides_are_valid(tmp_path: Path) -> None:
    """As a config checks them: called with made-up input."""
    file = tmp_path / "mine.py"
    file.write_text(snippets(DOCS / "guides" / "method.md"))
    config = load_config(
        "pocket_asym",
        [
            f"reweight.name={file}:later_tokens",
            f"loss.name={file}:unclipped",
            f"schedule.name={file}:settle",
        ],
    )
    assert config.loss.params["cap"] == 5.0
    assert load_config("pocket", [f"advantage.name={file}:focal"]).advantage.params == {
        "gamma": 2.0
    }


def test_the_rewards_of_the_guides_judge_as_they_say() -> None:
    own: dict[str, Any] = {}
    exec(snippets(DOCS / "guides" / "reward.md"), own)
    assert own["exact"](" 7\n", "7") and not own["exact"]("8", "7")
    assert own["close"]("about 7.04", "7", {"scale": 5}) and not own["close"]("", "7", {"scale": 5})


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("((1 - p) / p) ** beta_pos", r"((1 - p) / p)^{\beta_{\text{pos}}}"),
        ("p^(1 - b) (1 - p)^b", "p^{1 - b} (1 - p)^{b}"),
        ("sqrt(p (1 - p)) + 1e-6", r"\sqrt{p (1 - p)} + 10^{-6}"),
        ("p^ <- p^ + rate (p - p^)", r"\hat{p} \leftarrow \hat{p} +\,\text{rate}\,(p - \hat{p})"),
        ("A' = A if H >= Q(1 - rho)", r"A' = A\,\text{if}\,H \ge Q(1 - \rho)"),
        ("for reward 1", r"\text{for}\ \text{reward}\,1"),
    ],
)
def test_plain_formulas_become_latex(text: str, latex: str) -> None:
    sys.path.insert(0, str(DOCS / "hooks"))
    try:
        import formulas  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    assert re.sub(r" +(?=[ _}),]|$)", "", formulas.latex(text)) == latex


def test_method_sections_are_covered() -> None:
    sections = {name for name, field in Config.model_fields.items() if is_method(field.annotation)}
    assert sections == METHODS.keys()


def is_method(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, MethodConfig)
