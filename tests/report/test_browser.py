"""The report in a real browser: no requests, no console messages, it fits, and its filters work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asymrl.report.page import write_report
from tests.helpers.browser import NAMES, Tab, browser, find_browser
from tests.helpers.report_folders import FULL, config, rollout, step_row, write_run

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        find_browser() is None,
        reason=f"no browser found ({', '.join(NAMES)}); on Debian, install chromium",
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
    """Four rollouts, the first `solved` of them correct; if none is, the last one is truncated."""
    rows = [rollout(draw, i, **changed) for i in range(4)]
    for row in rows[:solved]:
        row |= {"reward": 1.0, "reason": "correct"}
    rows[-1]["truncated"] = solved == 0
    return rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two arms of two seeds, a long name, 5 groups per step and run: p = 0, 1/4, ..., 1."""
    folder = tmp_path_factory.mktemp("runs")
    steps = {s: [row for d in range(5) for row in group(d, d)] for s in (1, 3)}
    steps[1][0]["response"] = HOSTILE
    for name in ("asym", LONG):
        for seed in (0, 1):
            settings = config(seed, beta_pos=len(name))
            write_run(folder / f"runs/{name}/seed-{seed}", FULL, steps, settings)
    write_report([folder / "runs"], folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two arms with markup in every text of their run folders, as far as a name may contain it."""
    folder = tmp_path_factory.mktemp("hostile")
    texts = {key: HOSTILE for key in ("problem", "gold", "response", "answer", "reason")}
    bench, phase = (
        f"eval/{IMAGE}/greedy/avg",
        f"time/{IMAGE}",
    )  # without slashes, which separate parts
    rows = [row | {bench: 0.5, phase: 1.0} for row in FULL]
    for name, beta in ((IMAGE, 0.5), ('"onload="document.title=3', 0.7)):
        settings = config(0, beta_pos=beta, beta_neg=HOSTILE).replace(
            "path: tiny", f'path: "{HOSTILE}"'
        )
        settings += f'"{HOSTILE}": "{HOSTILE}{beta}"\n'
        run = write_run(folder / "runs" / name, rows, {1: [rollout(0, 0, **texts)]}, settings)
        (run / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    write_run(folder / "runs" / f"{IMAGE}2", config="a: [")
    assert len(write_report([folder / "runs"], folder / "report.html")) == 1
    return (folder / "report.html").as_uri()


def status(tab: Tab) -> str:
    return tab.run("document.querySelector('[role=status]').textContent")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_makes_no_requests_logs_no_errors_and_fits(
    tab: Tab, page: str, width: int, dark: bool
) -> None:
    tab.open(page, width, dark=dark)
    assert tab.requests() == [page]
    assert tab.console_messages() == []
    assert tab.run("innerWidth") == width
    assert tab.run("document.documentElement.scrollWidth") <= width
    background = tab.run("getComputedStyle(document.body).backgroundColor")
    line = tab.run("getComputedStyle(document.querySelector('svg [data-arm] path')).stroke")
    light_colours, dark_colours = (
        ("rgb(255, 255, 255)", "rgb(0, 114, 178)"),
        ("rgb(21, 23, 26)", "rgb(74, 163, 224)"),
    )
    assert (background, line) == (dark_colours if dark else light_colours)


@pytest.fixture(scope="module")
def crowded_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """30 arms with long names in wide letters, a long benchmark, tiny, huge and missing numbers."""
    folder, letters = (
        tmp_path_factory.mktemp("crowded"),
        ("W" * 60, "\N{CJK UNIFIED IDEOGRAPH-6570}" * 40),
    )
    bench = "eval/olympiadbench_text_only_english_open_ended_mathematics/greedy/avg"
    for n in range(30):
        odd = {"diag/kappa": -2.5e-5 * n, "diag/logprob_gain_positive": 1e7 * n, bench: n / 30}
        rows = [step_row(s, **odd, **{"policy/entropy": [None, 1e-7][s % 2]}) for s in (1, 2)]
        write_run(folder / f"runs/{letters[n % 2]}{n}_seed", rows, None, config(beta_pos=n / 30))
    write_report([folder / "runs"], folder / "report.html")
    return (folder / "report.html").as_uri()


TEXTS = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const edge = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(
    t => [t.textContent, t.getBoundingClientRect()]);
  const cut = texts.filter(([, r]) => r.left < edge.left - 1 || r.right > edge.right + 1);
  const over = texts.filter(([, a], i) => texts.slice(i + 1).some(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3));
  return [...cut, ...over].map(([text]) => text);
})"""


@pytest.mark.parametrize("which", ["page", "crowded_page"])
def test_no_text_of_a_figure_is_cut_off_or_overlaps_another(
    tab: Tab, which: str, request: pytest.FixtureRequest
) -> None:
    for width in (360, 768, 1440):
        tab.open(request.getfixturevalue(which), width)
        assert tab.run(TEXTS) == []


def test_a_legend_has_different_entries_for_30_arms(tab: Tab, crowded_page: str) -> None:
    tab.open(crowded_page)
    legend = "[...document.querySelector('figure svg').querySelectorAll('text')].slice(-30)"
    assert tab.run(f"new Set({legend}.map(t => t.textContent)).size") == 30


def test_the_page_fits_with_all_settings_open(tab: Tab, crowded_page: str) -> None:
    tab.open(crowded_page, 360)
    tab.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.run("document.documentElement.scrollWidth") <= 360


def test_a_printed_page_has_the_whole_table_on_white(tab: Tab, page: str) -> None:
    tab.open(page, 718, dark=True)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    tab.call("Emulation.setEmulatedMedia", media="print", features=[scheme])
    table = "document.querySelector('.scroll')"
    assert tab.run(f"{table}.scrollWidth - {table}.clientWidth") <= 0
    assert tab.run(f"getComputedStyle({table}).overflowX") == "visible"
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.call("Emulation.setEmulatedMedia", media="")


def test_the_helper_sees_requests_and_errors_of_a_page(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://127.0.0.1:9/x.png'><script>throw 1</script>" + "x" * 999)
    tab.open(page.as_uri(), 390)
    assert "http://127.0.0.1:9/x.png" in tab.requests() and tab.console_messages()
    assert tab.run("document.documentElement.scrollWidth") > 390


def test_a_script_in_a_rollout_is_only_text(tab: Tab, page: str) -> None:
    tab.open(f"{page}#step=1&accuracy=none&kind=wrong")
    shown = tab.run("[...document.querySelectorAll('.rollout pre')].map(e => e.textContent)")
    assert HOSTILE in shown
    assert tab.run("document.title").startswith("a_name") and tab.console_messages() == []
    assert len(tab.requests()) == 1 and tab.run("document.images.length") == 0


def test_markup_anywhere_in_a_run_is_only_text(tab: Tab, hostile_page: str) -> None:
    tab.open(hostile_page)
    tab.run("document.querySelectorAll('details').forEach(e => { e.open = true })")
    tab.run("document.getElementById('arm').dispatchEvent(new Event('change'))")
    text = tab.run("document.body.textContent")
    for part in (HOSTILE, IMAGE, f"Held-out {IMAGE}", '"onload="document.title=3', "Skipped: "):
        assert part in text
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
    assert tab.requests() == [hostile_page] and tab.console_messages() == []
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


def test_pages_can_be_turned_with_the_keyboard(tab: Tab, page: str) -> None:
    tab.open(page)
    tab.run("document.querySelector('[name=run]').focus()")
    tab.press(*TAB)
    tab.press(*DOWN)  # the next step
    assert "20 groups" in status(tab) and tab.run("location.hash").startswith("#run=any&step=1&")
    for _ in range(2):
        tab.press(*TAB)
    tab.press(*RIGHT)  # from all to correct
    assert "correct" in tab.run("document.querySelector('[name=kind]:checked').value")
    for _ in range(2):  # past the Back button, which is disabled on page 1
        tab.press(*TAB)
        if tab.run("document.activeElement.className") == "next":
            break
    tab.press(*ENTER)
    assert status(tab).startswith("Page 2 of ") and "page=2" in tab.run("location.hash")
    again = tab.run("location.href")
    shown = tab.run("document.querySelector('.groups').textContent")
    tab.open(again)
    assert (
        tab.run("document.querySelector('.groups').textContent") == shown
    )  # the address restores the view


def test_an_invalid_address_shows_the_first_page(tab: Tab, page: str) -> None:
    tab.open(f"{page}#run=99&step=x&kind=%3Cb%3E&accuracy=toString&page=-1e9")
    assert status(tab).startswith("Page 1 of 7: 40 groups") and tab.console_messages() == []


def test_an_arm_can_be_highlighted_in_the_figures(tab: Tab, page: str) -> None:
    tab.open(page)
    tab.run(
        "(arm => { arm.value = '1'; arm.dispatchEvent(new Event('change')) })"
        "(document.getElementById('arm'))"
    )
    dim = "[...document.querySelectorAll('.dim')].every(e => e.dataset.arm === '0')"
    assert tab.run(dim) and tab.run("document.querySelectorAll('.dim').length") >= 14


def test_the_tab_key_stops_at_texts_that_scroll(tab: Tab, tmp_path: Path) -> None:
    long = rollout(0, 0, response="word\n" * 400)
    write_report(
        [write_run(tmp_path / "run", FULL, {1: [long, rollout(0, 1)]})], tmp_path / "r.html"
    )
    tab.open((tmp_path / "r.html").as_uri())
    stops = tab.run("[...document.querySelectorAll('pre[tabindex]')].map(e => e.ariaLabel)")
    assert stops == ["long text"]
    assert tab.run("document.querySelector('pre[tabindex]').textContent").startswith("word")


def test_a_correct_and_truncated_rollout_matches_both_filters(tab: Tab, tmp_path: Path) -> None:
    both = rollout(0, 0, reward=1.0, reason="correct", truncated=True)
    write_report([write_run(tmp_path / "run", FULL, {1: [both]})], tmp_path / "r.html")
    for kind, match in (("correct", True), ("truncated", True), ("wrong", False)):
        tab.open(f"{(tmp_path / 'r.html').as_uri()}#kind={kind}")
        assert ("1 rollouts match" in status(tab)) is match


def test_every_filter_has_one_label(tab: Tab, page: str) -> None:
    tab.open(page, 390)
    names = tab.run("[...document.querySelectorAll('select, input')].map(e => e.labels.length)")
    assert names and set(names) == {1}
