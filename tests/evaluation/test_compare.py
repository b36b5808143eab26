"""Comparing result folders."""

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from asymrl.evaluation import compare

Rewards = dict[str, list[list[int]]]  # benchmark -> per problem, its samples


def folder(path: Path, rewards: Rewards, **row: Any) -> str:
    path.mkdir(parents=True)
    for name, problems in rewards.items():
        lines = [
            {"problem_id": f"{name}/{n}", "problem": f"{n}?", "gold": "1"}
            | {"reason": "correct" if reward else "wrong", "answer": str(reward)}
            | {"truncated": False, "tokens": 3}
            | row
            for n, samples in enumerate(problems)
            for reward in samples
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (path / f"{name}.jsonl").write_text(text)
    summary = {"benchmarks": {name: {} for name in rewards}}
    (path / "summary.json").write_text(json.dumps(summary))
    return str(path)


def output_of(capsys, *arguments: str) -> str:
    assert compare.main([*arguments]) == 0
    return capsys.readouterr().out


def squeezed(line: str) -> str:
    """A line of a Markdown table without its padding."""
    return re.sub(r"-+", "-", line) if line.startswith("|:") else re.sub(" +", " ", line)


def error_of(capsys, *arguments: str) -> str:
    assert compare.main([*arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


WEAK: Rewards = {"a": [[0, 0], [1, 0], [0, 1], [0, 0]] * 5, "b": [[1, 0, 1]] * 6}
STRONG: Rewards = {"a": [[1, 0], [1, 1], [1, 1], [1, 0]] * 5, "b": [[1, 0, 1]] * 6}


def test_differences_are_stated_in_words(tmp_path, capsys) -> None:
    weak, strong = folder(tmp_path / "weak", WEAK), folder(tmp_path / "strong", STRONG)
    out = output_of(capsys, weak, strong)
    assert re.search(
        r"a: strong - weak \+50.00 points, 95% \[.+\], 20 problems: strong is higher", out
    )
    assert (
        "b: strong - weak +0.00 points, 95% [+0.00, +0.00], 6 problems: not distinguishable" in out
    )
    assert "mean: strong - weak +25.00 points" in out
    assert "10,000 resamples, seed 0" in out
    assert "strong - weak" not in output_of(capsys, strong, weak)  # each is compared with the first
    assert output_of(capsys, weak, strong) == out


def test_interval_of_paired_differences_by_hand(tmp_path, capsys) -> None:
    """Differences of 0 and 1/2 in equal parts: the resampled mean is Binomial(20, 1/2) / 40, its
    quantiles 6/40 and 14/40, widened about 10/40 for 20 problems."""
    rewards = {"a": [[1, 0], [0, 0]] * 10}
    one = folder(tmp_path / "one", {"a": [[0, 0], [0, 0]] * 10})
    out = output_of(capsys, one, folder(tmp_path / "two", rewards))
    (low, high) = re.findall(r"\[\+([\d.]+), \+([\d.]+)\]", out)[0]
    half = 10 * math.sqrt(20 / 19) * 2.093024 / 1.959964
    assert (float(low), float(high)) == pytest.approx((25 - half, 25 + half), abs=0.005)


def test_best_is_bold_and_second_is_underlined(tmp_path, capsys) -> None:
    rows = {"low": [[0, 0]] * 4, "mid_1": [[1, 0]] * 4, "mid_2": [[0, 1]] * 4, "top": [[1, 1]] * 4}
    folders = [folder(tmp_path / name, {"a": problems}) for name, problems in rows.items()]
    md, tex = tmp_path / "t.md", tmp_path / "t.tex"
    output_of(capsys, *folders, "--markdown", str(md), "--latex", str(tex))
    lines = [squeezed(line) for line in md.read_text().splitlines()]
    assert lines[:6] == [
        "| | a |",
        "|:-|-:|",
        "| low | 0.00 ± 0.00 |",
        "| mid_1 | <u>50.00 ± 0.00</u> |",
        "| mid_2 | <u>50.00 ± 0.00</u> |",
        "| top | **100.00 ± 0.00** |",
    ]
    body = [line for line in tex.read_text().splitlines() if line.endswith("\\\\")]
    assert body == [
        r" & a \\",
        r"low & $0.00 \pm 0.00$ \\",
        r"mid\_1 & $\underline{50.00 \pm 0.00}$ \\",
        r"mid\_2 & $\underline{50.00 \pm 0.00}$ \\",
        r"top & $\mathbf{100.00 \pm 0.00}$ \\",
    ]


def test_a_single_folder_has_no_ranks(tmp_path, capsys) -> None:
    md = tmp_path / "t.md"
    out = output_of(capsys, folder(tmp_path / "one", WEAK), "--markdown", str(md))
    assert "**" not in md.read_text() and "resamples" not in out
    row = squeezed(md.read_text().splitlines()[2])
    assert row == "| one | 25.00 ± 5.74 | 66.67 ± 0.00 | 45.83 ± 2.87 |"


def test_folders_with_equal_names_get_longer_names(tmp_path, capsys) -> None:
    for run in ("x", "y"):
        (tmp_path / run).mkdir()
    paths = [folder(tmp_path / run / "paper", WEAK) for run in ("x", "y")]
    assert "y/paper - x/paper" in output_of(capsys, *paths)


def test_different_problems_are_an_error_that_names_them(tmp_path, capsys) -> None:
    one = folder(tmp_path / "one", WEAK)
    fewer = folder(tmp_path / "fewer", {"a": WEAK["a"][:18], "b": WEAK["b"]})
    line = error_of(capsys, one, fewer)
    assert "2 problems of a exist in only one of them: a/18, a/19" in line
    line = error_of(capsys, one, folder(tmp_path / "without", {"a": WEAK["a"]}))
    assert "only one of them has b" in line
    line = error_of(capsys, one, folder(tmp_path / "gold", WEAK, gold="2"))
    assert "20 problems of a have another text or gold: a/0, a/1" in line


def test_sample_counts_may_differ_and_settings_are_noted(tmp_path, capsys) -> None:
    one, two = (
        folder(tmp_path / "one", WEAK),
        folder(tmp_path / "two", {k: [[*s, 1] for s in v] for k, v in WEAK.items()}),
    )
    for path, temperature in ((one, 0.4), (two, 1.0)):
        settings = {"weights": path, "sampling": {"temperature": temperature}, "benchmarks": {}}
        (Path(path) / "settings.json").write_text(json.dumps(settings))
    md, tex = tmp_path / "t.md", tmp_path / "t.tex"
    assert compare.main([one, two, "--markdown", str(md), "--latex", str(tex)]) == 0
    captured = capsys.readouterr()
    assert "two is higher" in captured.out
    note = "note: one and two differ in sampling.temperature (0.4 and 1.0)"
    assert captured.err == f"{note}\n"
    assert f"\n- {note}\n" in md.read_text().split("| two ")[1]  # after the table
    assert f"\n% {note}\n" in tex.read_text().split("\\end{tabular}")[1]


def test_every_output_states_the_rule_that_selected_a_checkpoint(tmp_path, capsys) -> None:
    one, two = folder(tmp_path / "one", WEAK), folder(tmp_path / "two", STRONG)
    rule = "the best on a counts"
    (Path(two) / "settings.json").write_text(json.dumps({"which": rule, "benchmarks": {}}))
    (Path(one) / "settings.json").write_text(json.dumps({"benchmarks": {}}))
    md, tex = tmp_path / "t.md", tmp_path / "t.tex"
    for folders in ([two], [one, two]):
        out = output_of(capsys, *folders, "--markdown", str(md), "--latex", str(tex))
        line = f"two: which checkpoint: {rule}\n"
        assert line in out and f"\n- {line}" in md.read_text() and f"\n% {line}" in tex.read_text()
        assert (
            ("is bold" in md.read_text()) == ("is bold" in tex.read_text()) == (folders[0] == one)
        )
    assert not re.findall("differ in", md.read_text())  # the rule is not a setting


def test_names_are_escaped(tmp_path, capsys) -> None:
    """Names of folders and benchmarks, in all three tables."""
    names = ("[red]", "a|b<img src=x>*c*", "line\nbreak % & $x$ \\input{y}")
    folders = [folder(tmp_path / name, {"[bold]t|u": [[0, 0]] * 4}) for name in names]
    md, tex = tmp_path / "t.md", tmp_path / "t.tex"
    out = output_of(capsys, *folders, "--markdown", str(md), "--latex", str(tex))
    head, rows = out.split("┡")[:2]
    assert "[bold]t|u" in head and "[red]" in rows.split("└")[0]
    text = md.read_text()
    assert "<img" not in text and "a\\|b&lt;img src=x>\\*c\\*" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [3] * 5
    assert all(line[0] == "%" for line in tex.read_text().split("\\end{tabular}\n")[1].splitlines())
    rows = tex.read_text().split("\\midrule\n")[1].splitlines()
    assert rows[0].startswith("{[}red] & ")
    escaped = r"break \% \& \$x\$ \textbackslash{}input\{y\} & "
    assert rows[2].startswith(f"line\N{REPLACEMENT CHARACTER}{escaped}")


def test_rendered_markdown_shows_names_unchanged(tmp_path, capsys) -> None:
    names = ["_x_", "__init__", "~~s~~", "a_b", "_a b_c_", "![i](u)", "`c`", "&amp;", "<b>", "a\\"]
    folders = [folder(tmp_path / name, {"a_": [[0, 1]] * 4}) for name in names]
    output_of(capsys, *folders, "--markdown", str(tmp_path / "t.md"))
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render((tmp_path / "t.md").read_text())
    cells = re.findall(r"<tr>\n<td[^>]*>(.*?)</td>", rendered)
    assert [html.unescape(cell) for cell in cells] == names
    assert "<li>a_: __init__ - _x_ +0.00" in rendered


def test_damaged_and_unfinished_folders_are_errors_that_name_the_file(tmp_path, capsys) -> None:
    one, two = folder(tmp_path / "one", WEAK), folder(tmp_path / "two", WEAK)
    assert "nothing has no summary.json" in error_of(capsys, one, str(tmp_path / "nothing"))
    assert "given twice" in error_of(capsys, one, one)
    md = tmp_path / "none" / "t.md"
    (tmp_path / "none").write_text("a file")
    assert "cannot be written" in error_of(capsys, one, two, "--markdown", str(md))
    file = Path(two) / "a.jsonl"
    whole = file.read_text()
    for damage, part in (
        (whole + "{", "a.jsonl:41: not valid JSON"),
        (whole + "{}\n", "a.jsonl:41: the row has no answer"),
        ("".join(whole.splitlines(keepends=True)[:-1]), "more samples than others"),
        ("", "a.jsonl has 0 samples, but at least one is expected"),
        (
            whole.replace('"wrong"', "null", 1),
            "a.jsonl:1: reason is null; valid is one of correct,",
        ),
        (whole.replace('"correct"', '"right"', 1), 'a.jsonl:3: reason is "right"; valid is one'),
        (whole.replace('"correct"', '["correct"]', 1), "a.jsonl:3: reason is "),
        (whole.replace("false", "0", 1), "a.jsonl:1: truncated is 0; valid is true or false"),
        (whole.replace('"0"', "0", 1), "a.jsonl:1: answer is 0; valid is a string or null"),
        (whole.replace(": 3}", ": NaN}", 1), "a.jsonl:1: tokens is NaN"),
        ("[" * 100_000 + "\n" + whole, "a.jsonl:1: not valid JSON"),
    ):
        file.write_text(damage)
        assert part in error_of(capsys, one, two)
    file.unlink()
    assert "a.jsonl does not exist" in error_of(capsys, one, two)
    for damage, part in (
        ('{"benchmarks": {}}', "names no benchmark"),
        (
            '{"benchmarks": {"a": {"problems": "x", "samples": 2}}}',
            "summary.json is not as eval.py",
        ),
        ('{"benchmarks": ["a"]}', "summary.json is not as eval.py"),
        ('{"benchmarks": {"\\u0000": {}}}', "cannot be read"),
        ("\0" * 9, "summary.json: not valid JSON"),
    ):
        (Path(two) / "summary.json").write_text(damage)
        assert part in error_of(capsys, one, two)
    assert "a.jsonl has no summary.json" in error_of(capsys, one, f"{one}/a.jsonl")
    (Path(two) / "summary.json").write_text("{")
    assert "summary.json: not valid JSON" in error_of(capsys, one, two)
    deep = '{"benchmarks": {}, "a": ' + '{"a": ' * 120 + "1" + "}" * 121
    for text in (deep, '{"benchmarks": {"a": 1}}', "[" * 100_000, "[]", ""):
        (Path(one) / "settings.json").write_text(text)
        assert "settings.json: " in error_of(capsys, one)


def seeds(path: Path, solved: dict[str, int], within: str = "") -> str:
    """An arm: seed -> how many of 8 problems its evaluation solves."""
    for seed, count in solved.items():
        folder(path / seed / within, {"a": [[1]] * count + [[0]] * (8 - count)})
    return str(path)


def test_seeds_are_one_arm_with_errors_over_seeds(tmp_path, capsys) -> None:
    """Accuracies .25, .5, .75 and .5, .625, 1: differences .25, .125, .25, mean .2083, standard
    error .0417, t(.975, 2) = 4.3027."""
    weak = seeds(tmp_path / "weak", {"seed-0": 2, "seed-1": 4, "seed-2": 6})
    strong = seeds(tmp_path / "strong", {"seed-2": 8, "seed-0": 4, "seed-1": 5})
    md, tex = tmp_path / "t.md", tmp_path / "t.tex"
    out = output_of(capsys, weak, strong, "--markdown", str(md), "--latex", str(tex))
    line = "a: strong - weak +20.83 points, 95% [+2.91, +38.76], 3 seeds: strong is higher"
    for text in (out, md.read_text(), tex.read_text()):
        assert line in text
        assert "over seeds" in text and "bootstrap" not in text
    rows = [squeezed(row) for row in md.read_text().splitlines()]
    assert rows[2:4] == ["| weak | <u>50.00 ± 14.43</u> |", "| strong | **70.83 ± 15.02** |"]


def test_a_single_evaluation_beside_an_arm_counts_as_exact_and_has_no_error(
    tmp_path, capsys
) -> None:
    base = folder(tmp_path / "base", {"a": [[1]] * 4 + [[0]] * 4})
    arm = seeds(tmp_path / "arm", {"seed-0": 5, "seed-1": 7})  # differences .125 and .375
    md = tmp_path / "t.md"
    out = output_of(capsys, base, arm, "--markdown", str(md))
    assert "arm - base +25.00 points, 95% [-133.83, +183.83], 2 seeds" in out.replace("  ", " ")
    assert squeezed(md.read_text().splitlines()[2]) == "| base | <u>50.00</u> |"


def test_runs_are_compared_by_their_last_evaluation_with_a_setting(tmp_path, capsys) -> None:
    one, two = ({"seed-0": solved, "seed-1": solved} for solved in (2, 3))
    for step in ("step-000010", "step-000100"):
        first = seeds(tmp_path / "one", one, f"eval/{step}/t1")
    second = seeds(tmp_path / "two", two, "eval/step-000020/t1")
    assert compare.main([first, second, "--setting", "t1"]) == 0
    captured = capsys.readouterr()
    assert "two - one +12.50 points" in captured.out
    assert captured.err == "note: one and two differ in step (100 and 20)\n"
    (tmp_path / "one" / "seed-1" / "config.yaml").touch()
    assert "seed-1 has neither summary.json nor eval/step-*/t2" in error_of(
        capsys, first, second, "--setting", "t2"
    )


def test_arms_without_a_common_seed_are_an_error(tmp_path, capsys) -> None:
    one = seeds(tmp_path / "one", {"seed-0": 1, "seed-1": 2})
    two = seeds(tmp_path / "two", {"seed-2": 1, "seed-3": 2})
    assert "have no seed in common (seed-0, seed-1 and seed-2, seed-3)" in error_of(
        capsys, one, two
    )


def test_a_setting_that_differs_between_the_seeds_of_an_arm_is_noted(tmp_path, capsys) -> None:
    arm = seeds(tmp_path / "arm", {"seed-0": 1, "seed-1": 2})
    for seed, temperature in ((0, 0.4), (1, 1.0)):
        settings = {"seed": seed, "sampling": {"temperature": temperature}, "benchmarks": {}}
        (tmp_path / "arm" / f"seed-{seed}" / "settings.json").write_text(json.dumps(settings))
    assert compare.main([arm]) == 0
    note = "note: seed-1 of arm differs from its first seed in sampling.temperature (0.4 and 1.0)\n"
    assert capsys.readouterr().err == note
