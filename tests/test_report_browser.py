"""The report in a real browser: it asks for nothing, complains of nothing, fits, and filters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asymrl.report import write_report
from tests.browser import NAMES, Tab, browser, find_browser
from tests.report_folders import FULL, config, rollout, write_run

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        find_browser() is None,
        reason=f"no browser is here (none of {', '.join(NAMES)}); Debian's package is chromium",
    ),
]
HOSTILE = (
    "</script></pre><script>document.title = 'taken'</script>"
    "<img src='http://example.test/x.png' onerror='document.title = 1'>"
)
IMAGE = "<img src=x onerror=document.title=2>"
LONG = "a_name_of_an_arm_that_is_much_longer_than_any_phone_is_wide"
TAB, ENTER, DOWN, RIGHT = ("Tab", 9), ("Enter", 13, "\r"), ("ArrowDown", 40), ("ArrowRight", 39)


def group(draw: int, solved: int, **changed: Any) -> list[dict[str, Any]]:
    """Four rollouts, some correct; the last one is truncated where none is."""
    rows = [rollout(draw, i, **changed) for i in range(4)]
    for row in rows[:solved]:
        row |= {"reward": 1.0, "reason": "correct"}
    rows[-1]["truncated"] = solved == 0
    return rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two arms of two seeds, long names, 5 groups a step and run: p = 0, 1/4, .. 1."""
    folder = tmp_path_factory.mktemp("runs")
    steps = {s: [row for d in range(5) for row in group(d, d)] for s in (1, 3)}
    steps[1][0]["response"] = HOSTILE
    for name in ("asym", LONG):
        for seed in (0, 1):
            given = config(seed, beta_pos=len(name))
            write_run(folder / f"runs/{name}/seed-{seed}", FULL, steps, given)
    write_report([folder / "runs"], folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two arms that say HOSTILE, or of it what may stand there, wherever a run folder has text."""
    folder = tmp_path_factory.mktemp("hostile")
    texts = {key: HOSTILE for key in ("problem", "gold", "response", "answer", "reason")}
    bench, phase = f"eval/{IMAGE}/avg", f"time/{IMAGE}"  # a slash would end these names
    rows = [row | {bench: 0.5, phase: 1.0} for row in FULL]
    for name, beta in ((IMAGE, 0.5), ('"onload="document.title=3', 0.7)):
        given = config(0, beta_pos=beta, beta_neg=HOSTILE).replace(
            "path: tiny", f'path: "{HOSTILE}"'
        )
        given += f'"{HOSTILE}": "{HOSTILE}{beta}"\n'
        run = write_run(folder / "runs" / name, rows, {1: [rollout(0, 0, **texts)]}, given)
        (run / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    left_out = write_run(folder / "runs" / f"{IMAGE}2", config="a: [")
    assert write_report([folder / "runs"], folder / "report.html") != [] and left_out.exists()
    return (folder / "report.html").as_uri()


def status(tab: Tab) -> str:
    return tab.run("document.querySelector('[role=status]').textContent")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_loads_alone_without_complaint_and_fits(
    tab: Tab, page: str, width: int, dark: bool
) -> None:
    tab.open(page, width, dark=dark)
    assert tab.requests() == [page]
    assert tab.complaints() == []
    assert tab.run("innerWidth") == width
    assert tab.run("document.documentElement.scrollWidth") <= width
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    line = tab.run("getComputedStyle(document.querySelector('svg [data-arm] path')).stroke")
    light, night = (
        ("rgb(255, 255, 255)", "rgb(0, 114, 178)"),
        ("rgb(21, 23, 26)", "rgb(74, 163, 224)"),
    )
    assert (ground, line) == (night if dark else light)


def test_a_page_that_asks_and_complains_would_be_seen(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://127.0.0.1:9/x.png'><script>throw 1</script>" + "x" * 999)
    tab.open(page.as_uri(), 390)
    assert "http://127.0.0.1:9/x.png" in tab.requests() and tab.complaints()
    assert tab.run("document.documentElement.scrollWidth") > 390


def test_a_rollout_with_a_script_does_nothing(tab: Tab, page: str) -> None:
    tab.open(f"{page}#step=1&accuracy=none&kind=wrong")
    shown = tab.run("[...document.querySelectorAll('.rollout pre')].map(e => e.textContent)")
    assert HOSTILE in shown  # there to read
    assert tab.run("document.title").startswith("a_name") and tab.complaints() == []
    assert len(tab.requests()) == 1 and tab.run("document.images.length") == 0


def test_markup_anywhere_in_a_run_is_there_to_read_and_does_nothing(
    tab: Tab, hostile_page: str
) -> None:
    tab.open(hostile_page)
    tab.run("document.querySelectorAll('details').forEach(e => { e.open = true })")
    tab.run("document.getElementById('arm').dispatchEvent(new Event('change'))")
    text = tab.run("document.body.textContent")
    for said in (HOSTILE, IMAGE, f"Held-out {IMAGE}", '"onload="document.title=3', "Left out: "):
        assert said in text
    for place in (
        ".question",
        ".gold",
        ".rollout pre",
        ".verdict",
        ".facts b",
        "table",
        ".settings",
    ):
        assert HOSTILE in tab.run(f"document.querySelector('{place}').textContent"), place
    assert "img" in tab.run("document.querySelector('[role=img]').ariaLabel")
    assert "taken" not in tab.run("document.title") and len(tab.run("document.title")) > 5
    assert tab.requests() == [hostile_page] and tab.complaints() == []
    assert tab.run("document.images.length") == 0 and tab.run("document.scripts.length") == 2
    handlers = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
    assert not [name for name in tab.run(handlers) if name.startswith("on")]


def test_filters_show_what_they_name(tab: Tab, page: str) -> None:
    tab.open(page)
    assert status(tab) == "Page 1 of 7: 40 groups, 160 rollouts match"
    for kind, rollouts in (("correct", 80), ("wrong", 80), ("truncated", 8)):
        tab.open(f"{page}#kind={kind}")
        assert f" {rollouts} rollouts match" in status(tab)
        verdicts = tab.run("[...document.querySelectorAll('.rollout')].map(e => e.className)")
        assert set(verdicts) == {"rollout correct" if kind == "correct" else "rollout"}
        cut = tab.run("document.querySelectorAll('.cut').length")
        assert cut == len(verdicts) if kind == "truncated" else cut == 0 or kind == "wrong"
    for accuracy in ("none", "q1", "q2", "q3", "all"):
        tab.open(f"{page}#accuracy={accuracy}")
        assert "8 groups" in status(tab), accuracy
    tab.open(f"{page}#run=0&step=3&kind=all")
    assert "5 groups, 20 rollouts" in status(tab)
    heads = tab.run("[...document.querySelectorAll('.group h3')].map(e => e.textContent)")
    assert all("seed-0" in head and "step 3" in head for head in heads)


def test_pages_turn_with_the_keyboard_alone(tab: Tab, page: str) -> None:
    tab.open(page)
    tab.run("document.querySelector('[name=run]').focus()")
    tab.press(*TAB)
    tab.press(*DOWN)  # the next step
    assert "20 groups" in status(tab) and tab.run("location.hash").startswith("#run=any&step=1&")
    for _ in range(2):
        tab.press(*TAB)
    tab.press(*RIGHT)  # from all to correct
    assert "correct" in tab.run("document.querySelector('[name=kind]:checked').value")
    for _ in range(2):  # over the Back button, which has nothing to go back to
        tab.press(*TAB)
        if tab.run("document.activeElement.className") == "next":
            break
    tab.press(*ENTER)
    assert status(tab).startswith("Page 2 of ") and "page=2" in tab.run("location.hash")
    again = tab.run("location.href")
    shown = tab.run("document.querySelector('.groups').textContent")
    tab.open(again)
    assert tab.run("document.querySelector('.groups').textContent") == shown  # it can be sent on


def test_an_address_that_makes_no_sense_shows_the_first_page(tab: Tab, page: str) -> None:
    tab.open(f"{page}#run=99&step=x&kind=%3Cb%3E&accuracy=toString&page=-1e9")
    assert status(tab).startswith("Page 1 of 7: 40 groups") and tab.complaints() == []


def test_an_arm_can_be_brought_out_in_the_figures(tab: Tab, page: str) -> None:
    tab.open(page)
    tab.run(
        "(arm => { arm.value = '1'; arm.dispatchEvent(new Event('change')) })"
        "(document.getElementById('arm'))"
    )
    dim = "[...document.querySelectorAll('.dim')].every(e => e.dataset.arm === '0')"
    assert tab.run(dim) and tab.run("document.querySelectorAll('.dim').length") >= 14


def test_filters_can_be_reached_and_have_names(tab: Tab, page: str) -> None:
    tab.open(page, 390)
    names = tab.run("[...document.querySelectorAll('select, input')].map(e => e.labels.length)")
    assert names and set(names) == {1}
