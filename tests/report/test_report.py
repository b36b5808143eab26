"""The report: it shows what the run folders contain, and no text of a run can run code in it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from asymrl.errors import UserError
from asymrl.report import drawing
from asymrl.report.__main__ import main
from asymrl.report.arms import Arm, differing_settings, group_into_arms
from asymrl.report.page import headline, write_report
from asymrl.report.runs import read_runs
from tests.helpers.report_folders import (
    CONFIG,
    FULL,
    config,
    evaluation,
    rollout,
    step_row,
    write_run,
)

pytestmark = pytest.mark.slow  # whole pages with their figures

HOSTILE = "</pre></details><script>alert(1)</script><img src=x onerror=alert(2)>"

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """write_run, in the folder of the test."""

    def make(name: str = "run", **contents: Any) -> Path:
        return write_run(tmp_path / name, **contents)

    return make


class Page(HTMLParser):
    """A page as a browser parses it: elements, and their text."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = file.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def island(self) -> str:
        """The JSON of the rollouts in the page."""
        start = '<script type="application/json" id="rollouts">'
        return self.source.split(start)[1].split("</script>")[0]

    def alts(self) -> str:
        images = [a for a in self.named("div") if a.get("role") == "img"]
        return "\n".join(a["aria-label"] or "" for a in images)

    def svgs(self) -> list[str]:
        return re.findall(r"<svg.*?</svg>", self.source, flags=re.DOTALL)


def arms_in(*runs: Path) -> list[Arm]:
    return group_into_arms(read_runs(runs)[0])


def page_of(*runs: Path) -> Page:
    out = runs[0].parent / "report.html"
    write_report(runs, out)
    return Page(out)


def cells(page: Page, label: str) -> list[str]:
    """The texts of a run's row in the first table, without small print."""
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", page.source, flags=re.DOTALL)
    row = next(row for row in rows if f"</span>{label}</span>" in row)
    return [re.sub(" <small>.*", "", cell) for cell in re.findall("<td>(.*?)</td>", row)]


def test_the_page_loads_nothing_from_outside(make_run: MakeRun) -> None:
    page = page_of(make_run("a", rollouts={1: [rollout(0, 0)]}), make_run("b"))
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "data", "poster"} & set(attributes), tag
        for key in ("href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
    assert "@import" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) == {"#"}


def test_markup_in_a_rollout_or_a_folder_name_is_only_text(make_run: MakeRun) -> None:
    hostile = {key: HOSTILE for key in ("problem", "gold", "response", "answer", "reason")}
    name = "<img src=x onerror=alert(3)>"
    run = make_run(name, rollouts={1: [rollout(0, 0, **hostile)]})
    page = page_of(run)
    assert len(page.named("script")) == 2 and not page.named("img")
    assert not [key for _, a in page.elements for key in a if key.startswith("on")]
    assert not set("<>&") & set(page.island())
    (group,) = json.loads(page.island())["groups"]
    (shown,) = group["rollouts"]
    texts = [group["problem"], group["gold"], *(shown[k] for k in ("response", "answer", "reason"))]
    assert texts == [HOSTILE] * 5  # the reader shows all of it
    assert name in page.text


def test_the_content_security_policy_allows_only_the_pages_own_script(make_run: MakeRun) -> None:
    page = page_of(make_run())
    script = re.findall(r"<script>(.*?)</script>", page.source, flags=re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a in page.named("meta") if "http-equiv" in a) or ""
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_table_has_first_and_last_values_gain_and_minutes(make_run: MakeRun) -> None:
    page = page_of(make_run("mine", rows=FULL))
    assert cells(page, "mine") == [
        "asym (β+\xa00.7, β\N{MINUS SIGN}\xa00.3)",
        "0.250 ± 0.020 → 0.625 ± 0.020",
        "+0.375",
        "0.250 → 0.750",
        "0.900 → 0.700",
        "0.020",
        "11",
        "3",
        "0.1",  # 3 steps of 3 s are 0.15 minutes
        "tiny",
    ]


def test_an_arm_has_means_and_standard_errors_over_its_seeds(make_run: MakeRun) -> None:
    for seed, last in enumerate((0.5, 0.625, 0.75)):  # s / sqrt(3) = 0.072
        rows = [evaluation(0, 0.25), step_row(1) | evaluation(1, last)]
        make_run(f"arm/seed-{seed}", rows=rows, config=config(seed))
    texts = cells(page_of(make_run("other", config=config(beta_pos=1)).parent), "arm")
    assert texts[1:4] == ["0.250 ± 0.000 → 0.625 ± 0.072", "+0.375 ± 0.072", "0.250 ± 0.000"]
    assert texts[6] == "0, 1, 2"


def test_a_run_shorter_than_its_arm_does_not_count_in_the_last_values(make_run: MakeRun) -> None:
    make_run("arm/ahead", rows=FULL, config=config(0))
    make_run("arm/behind", rows=FULL[:2], config=config(1))
    page = page_of(make_run("other", config=config(beta_pos=1)).parent)
    assert cells(page, "arm")[1] == "0.250 ± 0.020 → 0.625 ± 0.020"
    assert "behind: ends at step 1, before other runs of its arm" in page.text
    assert page.text.count("last values: 1 of 2 runs") == 1


def test_a_loss_of_accuracy_has_a_minus_sign(make_run: MakeRun) -> None:
    run = make_run("worse", rows=[evaluation(0, 0.5), step_row(1) | evaluation(1, 0.25)])
    assert "\N{MINUS SIGN}0.250" in cells(page_of(run), "worse")


def test_an_unfinished_run_shows_its_last_step(make_run: MakeRun) -> None:
    page = page_of(make_run("short", rows=FULL[:2]))
    assert "<td>1 <small>of 3</small></td>" in page.source


def test_the_alternative_text_of_every_figure_has_the_values_of_each_run(make_run: MakeRun) -> None:
    page = page_of(make_run("a", rows=FULL), make_run("b", rows=FULL))
    alts = page.alts().splitlines()
    assert len(alts) == len(page.svgs()) == 16
    assert all("a: " in alt and "b: " in alt for alt in alts)
    by_title = {alt.split(" over ")[0]: alt for alt in alts}
    assert "a: 0.25 at step 1, 0.453 at step 3." in by_title["Training reward"]  # smoothed
    assert "a: 0.25 at step 0, 0.625 at step 3." in by_title["Held-out accuracy, held, greedy"]
    assert "a: 3 seconds per step." in alts[-1]
    for svg in page.svgs():
        assert {">a</text>", ">b</text>"} <= set(re.findall(">[ab]</text>", svg))


def test_figures_are_written_as_png_beside_the_page(make_run: MakeRun, tmp_path: Path) -> None:
    write_report([make_run(rows=FULL)], tmp_path / "new/folder/page.html")
    figures = sorted((tmp_path / "new/folder/figures").iterdir())
    assert [figure.stem for figure in figures] == [
        "accuracy_held_greedy",
        "advantage_negative",
        "advantage_positive",
        "all_solved",
        "entropy",
        "entropy_negative",
        "entropy_positive",
        "gain",
        "kappa",
        "mass_negative",
        "mass_positive",
        "none_solved",
        "phase_times",
        "pressure_negative",
        "pressure_positive",
        "reward",
    ]
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)
    assert sorted(path.name for path in (tmp_path / "new/folder").iterdir()) == [
        "figures",
        "page.html",
    ]


def test_drawings_are_valid_xml_and_follow_the_theme(make_run: MakeRun) -> None:
    page = page_of(make_run("a", rows=FULL), make_run("b & <c>", rows=FULL))
    defined = set(re.findall(r"(--[a-z0-9-]+):", page.source))
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    for svg in page.svgs():
        ElementTree.fromstring(svg)
        assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", svg)
        assert {"--ink", "--run-0"} <= set(re.findall(r"var\((--[a-z0-9-]+)\)", svg)) <= defined
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg)) <= set(ids)


def test_a_run_without_a_metric_has_no_curve_in_its_figure(make_run: MakeRun) -> None:
    without = [{k: v for k, v in row.items() if k != "diag/kappa"} for row in FULL]
    page = page_of(make_run("full", rows=FULL), make_run("lacking", rows=without))
    kappa = next(alt for alt in page.alts().splitlines() if alt.startswith("Kappa"))
    assert "full: " in kappa and "lacking" not in kappa
    assert page.text.count("No data: lacking.") == 1


def test_a_figure_without_data_is_left_out_with_a_note(make_run: MakeRun) -> None:
    run = make_run(rows=[{"step": 1, "reward/mean": 0.5}], config="advantage: {name: lost}")
    page = page_of(run)
    assert len(page.svgs()) == 1
    assert [path.name for path in (run.parent / "figures").iterdir()] == ["reward.png"]
    assert "No run has diag/kappa" in page.text
    assert "No run has an evaluation" in page.text
    assert "no rollouts were saved" in page.text


def test_a_run_with_only_an_evaluation_has_a_report(make_run: MakeRun) -> None:
    page = page_of(make_run("begun", rows=FULL[:1]))
    assert cells(page, "begun")[1:4] == ["0.250 ± 0.020", "–", "–"]  # noqa: RUF001
    assert len(page.svgs()) == 1 + 4  # accuracy, and the curves of the estimator


def test_runs_may_differ_in_benchmarks(make_run: MakeRun) -> None:
    other = make_run("other", rows=[{"step": 0, "eval/a b/greedy/avg": 0.5}])
    page = page_of(make_run("one", rows=FULL[:1]), other)
    assert {"held, greedy", "a b, greedy"} == set(
        re.findall(r">Held-out ([a-z ,]+) <small>", page.source)
    )
    assert (other.parent / "figures/accuracy_a_b_greedy.png").exists()


def test_35_runs_look_different_from_each_other() -> None:
    looks = {(drawing.colour(i), drawing.DASHES[i % len(drawing.DASHES)]) for i in range(35)}
    assert len(looks) == 35


def test_phases_beyond_the_palette_are_added_up_as_other(make_run: MakeRun) -> None:
    seconds = {f"time/p{i}": 1.0 + i for i in range(9)} | {"time/step": 999.0}
    page = page_of(make_run("busy", rows=[{"step": 1, **seconds}]))
    assert "busy: 45 seconds per step." in page.alts()
    assert ">other</text>" in page.source and ">p0</text>" not in page.source


def test_gpu_memory_is_a_table_of_arms_and_phases_where_a_run_has_it(make_run: MakeRun) -> None:
    rows = [
        step_row(step, **{f"perf/gpu_memory_{what}/update": gib for what, gib in of_step.items()})
        for step, of_step in enumerate(
            (
                {"peak": 40.0, "reserved": 35.0, "free": 39.0, "estimate": 38.82},
                {"peak": 41.25, "reserved": 34.0, "free": 37.5, "estimate": 38.82},
            ),
            start=1,
        )
    ]
    page = page_of(make_run("gpu", rows=rows), make_run("cpu", rows=FULL))
    table = page.source.partition('id="memory"')[2].partition("</table>")[0]
    cells = re.findall(r"<td>(.*?)</td>", table)
    assert cells == ["update", "35.0", "41.2", "38.8", "37.5"]
    assert table.count("</tr>") == 2 and "cpu" not in table


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(make_run: MakeRun) -> None:
    page = page_of(make_run("_hidden $x_1$"))
    assert all("_hidden $x_1$</text>" in svg for svg in page.svgs())


def test_only_settings_that_differ_are_listed(make_run: MakeRun) -> None:
    other = CONFIG.replace("0.0005", "0.001")
    arms = arms_in(make_run("a"), make_run("b", config=other))
    assert differing_settings(arms) == [("optim.lr", ["0.0005", "0.001"])]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["asym"], "One run, asym (β+ 0.7, β- 0.3), over 2 steps on tiny."),
        (
            ["asym", "b"],
            "asym (β+ 0.7, β- 0.3) and b (asym, β+ 0.7, β- 0.3) compared over 2 steps on tiny.",
        ),
        (list("abcde"), "5 arms of 1 method compared over 2 steps on tiny."),
    ],
)
def test_the_headline_says_what_is_compared(
    make_run: MakeRun, names: list[str], sentence: str
) -> None:
    text = headline(arms_in(*[make_run(name) for name in names]))
    assert text.replace("\xa0", " ").replace("\N{MINUS SIGN}", "-") == sentence


def test_invalid_unicode_is_replaced(make_run: MakeRun) -> None:
    page = page_of(make_run(rollouts={1: [rollout(0, 0, response="bad \ud800 here")]}))
    assert "bad ? here" in page.island()


def damage(run: Path, how: str) -> None:
    if how == "no settings":
        (run / "config.yaml").unlink()
    elif how == "settings that are a list":
        (run / "config.yaml").write_text("- 1\n")
    elif how == "settings that are not YAML":
        (run / "config.yaml").write_text("a: [1\nb: }")
    elif how == "no metrics":
        (run / "metrics.jsonl").unlink()
    elif how == "empty metrics":
        (run / "metrics.jsonl").write_text("")
    elif how == "half a step":
        (run / "metrics.jsonl").write_text('{"step": 0')


@pytest.mark.parametrize(
    "how",
    [
        "no settings",
        "settings that are a list",
        "settings that are not YAML",
        "no metrics",
        "empty metrics",
        "half a step",
    ],
)
def test_a_broken_run_is_skipped_with_a_note_and_alone_exits_with_2(
    make_run: MakeRun, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = make_run("good"), make_run("bad")
    damage(bad, how)
    out = good.parent / "report.html"
    out.write_text("an older page")
    assert main([str(bad), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert str(bad) in error and error.count("\n") == 1
    assert out.read_text() == "an older page"
    assert main([str(good), str(bad), "--out", str(out)]) == 0
    error = capsys.readouterr().err
    assert str(bad) in error and error.count("\n") == 1
    assert f"Skipped: {bad}" in Page(out).text


def test_a_missing_folder_and_an_unusable_out_exit_with_2(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    assert main([str(tmp_path / "absent"), "--out", str(tmp_path / "r.html")]) == 2
    assert "absent" in capsys.readouterr().err
    assert main([str(run), "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main([str(run), "--out", str(run / "config.yaml" / "r.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main([str(run), "--out", str(run / "config.yaml")]) == 2
    assert "ends in .html" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == CONFIG


def test_a_failed_write_leaves_the_old_page_and_no_temporary_file(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    out = run.parent / "report.html"
    out.write_text("an older page")

    def full_disk(source: str, target: Path) -> None:
        if Path(target) == out:
            raise OSError("no space left")
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(UserError, match="no space left"):
        write_report([run], out)
    assert out.read_text() == "an older page"
    assert not [path for path in run.parent.iterdir() if path.name.startswith(".")]


def test_the_command_prints_what_it_wrote(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    out = run.parent / "page.html"
    assert main([str(run), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out and out.exists()


def test_importing_the_report_loads_no_torch_and_no_pyplot() -> None:
    heavy = ("torch", "transformers", "wandb", "vllm", "matplotlib.pyplot")
    code = f"import sys, asymrl.report.__main__; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_out_the_page_is_in_the_folder_of_the_runs(
    make_run: MakeRun, monkeypatch, capsys
) -> None:
    one, two = make_run("arms/one"), make_run("arms/two", config=config(beta_pos=1))
    monkeypatch.chdir(one.parents[1])
    Path("docs").mkdir()
    for folders, page in (
        (["arms/one"], "arms/one/report.html"),
        (["arms"], "arms/report.html"),
        (["arms/one", str(two)], "arms/report.html"),
        (["docs", "arms/two"], "arms/two/report.html"),  # docs has no run
    ):
        assert main(folders) == 0
        assert capsys.readouterr().out.startswith(f"wrote {page}, ")
        assert Path(page).is_file()
