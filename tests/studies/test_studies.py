"""Studies: jobs, results, verdicts and pages, from results with invented numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asymrl.config.load import ROW_DIR, load_config
from asymrl.errors import UserError
from asymrl.statistics import paired_test
from studies import claims, hypotheses, jobs, methods, paper, results, tables
from studies.__main__ import STUDIES, main
from studies.hypotheses import ARMS, HYPOTHESES
from studies.jobs import GRID_ARMS, UNTRAINED, Arm, betas, make_job, make_jobs, row
from studies.results import Result, append, find_results, read_results
from tests.helpers.study_results import invented

EVERY_JOB = {
    (job.task, job.arm): job for study in STUDIES.values() for job in study.jobs([*study.arms], 1)
}


def squeezed(text: str) -> list[str]:
    """Lines of Markdown without the padding of table cells."""
    return [" ".join(line.split()) for line in text.splitlines()]


# --- jobs


@pytest.mark.parametrize("key", EVERY_JOB, ids=lambda key: f"{key[0]}-{key[1].name}")
def test_every_arm_is_a_config_that_loads_and_is_evaluated_greedily_five_times(key) -> None:
    job = EVERY_JOB[key]
    config = load_config(job.config, job.overrides)
    assert [*config.eval.sampling] == ["greedy"] and config.seed == job.seed
    steps = 1 if job.arm == UNTRAINED else 5 * config.eval.every
    assert config.steps == steps and config.eval.benchmarks == [job.benchmark]


def test_an_arm_that_is_named_after_betas_has_these_betas() -> None:
    for arm in GRID_ARMS:
        job = make_job("pocket", arm, 0)
        advantage = load_config(job.config, job.overrides).advantage
        assert advantage.name == "asym"
        point = advantage.params["beta_pos"], advantage.params["beta_neg"]
        assert betas(*point) == arm


def test_reinforce_on_mixed_groups_gives_the_others_no_gradient() -> None:
    import torch

    from asymrl.algo.advantages import ADVANTAGES
    from asymrl.types import Groups

    rewards = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    blank = torch.zeros_like(rewards)
    groups = Groups(
        rewards=rewards, valid=blank == 0, lengths=blank.long() + 1, mean_logprobs=blank
    )
    tiny = {"beta_pos": 1e-6, "beta_neg": 1e-6}
    assert [f"advantage.{k}={v}" for k, v in tiny.items()] == [
        *hypotheses.ON_MIXED["reinforce_mixed"].overrides
    ]
    advantages = ADVANTAGES["asym"](groups, **tiny)
    assert advantages.flatten().tolist() == pytest.approx([0, 0, -1, 1, 0, 0], abs=1e-5)


def test_studies_share_results_of_equal_arms() -> None:
    table, claims_jobs, grid = (
        {job.name: job for job in STUDIES[name].jobs(["pocket"], 2)}
        for name in ("table2", "claims", "grid")
    )
    assert table["pocket/grpo/seed-1"] == claims_jobs["pocket/grpo/seed-1"]
    assert claims_jobs["pocket/asym_sym/seed-0"] == grid["pocket/asym_sym/seed-0"]
    assert claims_jobs["pocket/pos0.9_neg0.5/seed-0"] == grid["pocket/pos0.9_neg0.5/seed-0"]


def test_settings_are_told_apart_by_what_a_run_depends_on() -> None:
    job = make_job("pocket", row("grpo"), 0)
    assert job.settings == make_job("pocket", Arm(name="other name", row="grpo"), 0).settings
    assert job.settings == make_job("pocket", row("grpo"), 1).settings  # the seed is told apart
    others = [
        make_job("pocket", row("asym"), 0),
        make_job("pocket_short", row("grpo"), 0),
        make_job("pocket", Arm(name="grpo", row="grpo", overrides=("optim.lr=0.1",)), 0),
    ]
    assert len({job.settings, *(other.settings for other in others)}) == 4


def test_the_central_claim_has_more_seeds_and_jobs_are_ordered_by_seed() -> None:
    claims_jobs = STUDIES["claims"].jobs(["pocket"], None)
    assert [job.seed for job in claims_jobs] == sorted(job.seed for job in claims_jobs)
    count = {
        name: sum(job.arm.name == name for job in claims_jobs) for name in ("asym", "reinforce")
    }
    assert count == {"asym": 32, "reinforce": 16}


def test_the_engine_of_a_cpu_run_does_not_change_its_settings() -> None:
    """The first results were written when the config said auto, which chose the same."""
    auto = Arm(name="auto", row="grpo", overrides=("rollout.engine=auto", "policy.backend=auto"))
    assert make_job("pocket", auto, 0).settings == make_job("pocket", row("grpo"), 0).settings


def test_settings_cover_the_problems_and_the_recipe_of_the_policy(monkeypatch) -> None:
    def settings() -> str:
        jobs.settings_of.cache_clear()
        return make_job("pocket", row("grpo"), 0).settings

    digests = [settings()]
    monkeypatch.setitem(jobs.DATA, "pocket_heldout", lambda: iter([{"problem": "1"}]))
    digests.append(settings())
    variant = replace(jobs.VARIANTS["pocket"], false_facts=0.1)
    monkeypatch.setitem(jobs.VARIANTS, "pocket", variant)
    digests.append(settings())
    monkeypatch.setattr(jobs, "LATER_KEYS", {"optim.weight_decay": 0.01})
    digests.append(settings())
    assert len({*digests}) == 4
    monkeypatch.undo()
    assert settings() == digests[0]


# --- results


def test_results_are_read_as_they_were_written_with_null_for_nan(tmp_path: Path) -> None:
    one = invented("pocket", "grpo", 0, kappa_hat=math.nan, diag_kappa=0.123456789)
    append(one, tmp_path)
    append(replace(one, seed=1), tmp_path)
    text = (tmp_path / "pocket.jsonl").read_text()
    assert text.count("\n") == 2 and "NaN" not in text
    first, second = read_results(tmp_path, "pocket")
    assert math.isnan(first.kappa_hat) and first.series["diag/kappa"][0] == 0.12346
    assert replace(first, kappa_hat=0.0) == replace(second, kappa_hat=0.0, seed=0)
    assert read_results(tmp_path, "sums") == []


def test_a_result_of_other_settings_is_not_the_jobs_and_the_last_one_counts(tmp_path: Path) -> None:
    job, other = make_jobs("pocket", [row("grpo"), row("asym")], [0])
    append(invented("pocket", "grpo", 0, settings="f" * 16), tmp_path)
    assert find_results([job, other], tmp_path) == {}
    append(invented("pocket", "grpo", 0, greedy=0.6, settings=job.settings), tmp_path)
    append(invented("pocket", "grpo", 0, greedy=0.7, settings=job.settings), tmp_path)
    found = find_results([job, other], tmp_path)
    assert [*found] == [job] and results.greedy(found[job]) == 0.7


@pytest.mark.parametrize("line", ['{"task": "pocket"}', '{"series": 1}', "[]", "{"])
def test_a_broken_line_of_results_is_one_sentence(line: str, tmp_path: Path) -> None:
    (tmp_path / "pocket.jsonl").write_text(line + "\n{}\n")
    with pytest.raises(UserError, match=r"pocket\.jsonl") as error:
        read_results(tmp_path, "pocket")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"greedy": {}},
        {"greedy": {"0": None}},
        {"samples": 0},
        {"solved": [1, 99]},
        {"solved": []},
        {"tempered": None},
        {"tempered": 1.5},
        {"seed": "0"},
        {"task": "sums"},
        {"pressure": None},
    ],
)
def test_a_result_with_an_impossible_value_is_not_read(fields: dict, tmp_path: Path) -> None:
    append(invented("pocket", "grpo", 0), tmp_path)
    row = json.loads((tmp_path / "pocket.jsonl").read_text())
    (tmp_path / "pocket.jsonl").write_text(json.dumps(row | fields) + "\n")
    with pytest.raises(UserError, match="is not a result of a study"):
        read_results(tmp_path, "pocket")


def test_an_incomplete_last_line_is_skipped_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    append(invented("pocket", "grpo", 0), tmp_path)
    with (tmp_path / "pocket.jsonl").open("a") as file:
        file.write('{"task": "po')
    assert len(read_results(tmp_path, "pocket")) == 1
    append(invented("pocket", "grpo", 1), tmp_path)
    *_, last = (tmp_path / "pocket.jsonl").read_text().splitlines()
    assert json.loads(last)["seed"] == 1


def test_measures_of_a_run_by_hand() -> None:
    run = invented("pocket", "grpo", 0, samples=8, solved=(0, 2, 4, 8))
    falling = {**run.series, "policy/entropy": tuple(range(20, 0, -1))}
    run = replace(run, series=falling, greedy={"0": 0.2, "60": 0.5, "80": 0.6, "100": 0.9})
    assert results.greedy(run) == 0.9
    assert results.greedy_late(run) == pytest.approx(0.4)
    assert results.entropy(run) == 10.5
    assert results.at_the_end(run, "policy/entropy") == 1.5
    # of 8 samples 0, 2, 4, 8 are correct: pass@1 = 0, 1/4, 1/2, 1; pass@8 = 0, 1, 1, 1
    assert results.pass_at(run, 1) == pytest.approx(7 / 16)
    assert results.pass_at(run, 8) == pytest.approx(3 / 4)
    # the hard half by the untrained policy is the third and fourth problem
    untrained = invented("pocket", "untrained", 0, solved=(8, 7, 0, 1))
    assert results.unsolved_hard(run, untrained) == 0
    assert results.unsolved_hard(run, replace(untrained, solved=(0, 1, 7, 8))) == 0.5
    assert results.slope([0, 0.25, 0.5], [1.0, 2.0, 6.0]) == pytest.approx(10.0)


def test_means_over_steps_leave_out_steps_without_the_metric() -> None:
    numbers = [1.0, math.nan, 3.0, math.nan, math.nan, 7.0]
    assert results.averages(numbers) == (2.0, 7.0)
    assert math.isnan(results.averages([math.nan])[0])


def test_the_peak_is_where_mass_per_group_is_highest() -> None:
    mass = {"0.25": 1.0, "0.5": 1.0, "0.75": 3.0, "0.875": 1.0, "1": 9.0, "0": 9.0}
    run = invented("pocket", "grpo", 0, pressure={"positive": mass, "negative": {}})
    # the parabola through (.5, 1), (.75, 3), (.875, 1): slopes 8 and -16, curvature -64,
    # vertex where 8 - 64 (2 x - .5 - .75) = 0
    assert results.peak(run, "positive") == pytest.approx(0.6875)
    assert math.isnan(results.peak(run, "negative"))
    at_an_end = {"0.125": 1.0, "0.5": 0.5, "0.75": 0.01}
    run = replace(run, pressure={"positive": at_an_end, "negative": {}})
    assert results.peak(run, "positive") == 0.125


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75])
def test_the_peak_of_the_exact_w_is_found_to_a_fortieth(beta: float) -> None:
    """W+ = p^(1 - b) (1 - p)^b, on eighths."""
    mass = {f"{k / 8:g}": (k / 8) ** (1 - beta) * (1 - k / 8) ** beta for k in range(1, 8)}
    run = invented("pocket", "grpo", 0, pressure={"positive": mass})
    assert results.peak(run, "positive") == pytest.approx(1 - beta, abs=0.025)


# --- verdicts

NO_ROOM = hypotheses.accuracy("-", "a", "b", +1, pocket=(0, "-"))
EQUAL = hypotheses.entropy("-", "a", "b", 0, margin=0.1, pocket=(0, "-"))


@pytest.mark.parametrize(
    ("differences", "sign", "p", "expected"),
    [
        ([1.0, 1.1, 0.9, 1.05], +1, 0.049, "shown"),
        ([1.0, 1.1, 0.9, 1.05], -1, 0.049, "the opposite"),
        ([1.0, 1.1, 0.9, 1.05], +1, 0.05, "undecided"),
    ],
)
def test_a_verdict_has_one_rule_for_both_directions(differences, sign, p, expected) -> None:
    hypothesis = replace(NO_ROOM, sign=sign)
    assert claims.verdict(hypothesis, paired_test(differences), p) == expected


def test_no_difference_is_shown_within_the_margin_and_refuted_outside_it() -> None:
    inside, outside = paired_test([0.01, -0.01, 0.0, 0.02]), paired_test([0.3, 0.31, 0.29, 0.3])
    wide = paired_test([0.5, -0.5, 0.3, -0.3])
    p = [claims.p_value(EQUAL, test) for test in (inside, outside, wide)]
    assert p[0] < 0.01 and p[1] < 0.001 and p[2] > 0.5
    assert claims.verdict(EQUAL, inside, p[0]) == "shown"
    assert claims.verdict(EQUAL, outside, p[1]) == "the opposite"
    assert claims.verdict(EQUAL, wide, p[2]) == "undecided"
    # 0.01, -0.01, 0, 0.02: mean .005, s .01291, standard error .006455; (.1 - .005) / .006455
    assert claims.p_inside(EQUAL, inside) == pytest.approx(claims.stats.t.sf(14.717, 3), rel=1e-3)


@pytest.mark.parametrize(("seeds", "family"), [(4, 9), (16, 4)])
def test_what_a_test_could_find_is_found_with_its_power(seeds: int, family: int) -> None:
    unit = np.array([-1.0, 1.0] * (seeds // 2)) * ((seeds - 1) / seeds) ** 0.5  # s = 1
    difference = claims.detectable(paired_test(unit), family)
    draws = np.random.default_rng(0).normal(difference, 1, (40_000, seeds))
    t = draws.mean(1) / (draws.std(1, ddof=1) / seeds**0.5)
    found = np.abs(t) > claims.stats.t.ppf(1 - 0.05 / family / 2, seeds - 1)
    assert np.mean(found) == pytest.approx(0.8, abs=0.01)


def seeds_of(task: str, count: int, **arms: dict) -> list[Result]:
    """Every arm of the task, equal in all seeds but for noise, and the fields of `arms`."""
    noise = np.random.default_rng(1).normal(0, 0.005, (count, len(ARMS[task])))
    found = []
    for seed in range(count):
        for n, arm in enumerate(ARMS[task]):
            fields = {"greedy": 0.6, **arms.get(arm.name, {})}
            fields["greedy"] += noise[seed, n]
            fields["policy_entropy"] = fields.get("policy_entropy", 0.5) + noise[seed, n]
            found.append(invented(task, arm.name, seed, **fields))
    return found


def verdicts(task: str, runs: list[Result]) -> dict[str, str]:
    found = claims.findings(task, results.by_seed(runs))
    return {one.hypothesis.name: one.verdict for one in found}


def test_differences_that_are_there_are_found_and_others_are_not() -> None:
    arms = {
        "asym": {"greedy": 0.7},
        "ent_decrease": {"greedy": 0.8},
        "pos_only": {"policy_entropy": 0.7},
    }
    found = verdicts("pocket", seeds_of("pocket", 8, **arms))
    assert found["greedy accuracy: asym - asym_sym"] == "shown"
    assert found["greedy accuracy: ent_decrease - grpo"] == "the opposite"
    assert found["greedy accuracy: grpo_clip_higher - grpo"] == "undecided"
    assert found["greedy accuracy: pos0.9_neg0.5 - grpo"] == "shown"  # no difference, by margin
    assert found["entropy: pos_only - reinforce"] == "shown"


def test_a_quantity_at_its_ceiling_is_not_measurable_and_leaves_the_family() -> None:
    solved = {arm.name: {"greedy": 0.99} for arm in ARMS["pocket"]}
    everything = verdicts("pocket", seeds_of("pocket", 8, **solved))
    assert everything["greedy accuracy: asym - asym_sym"] == "not measurable"
    none = {arm.name: {"groups_none_solved": 0.0} for arm in ARMS["pocket"]}
    runs = seeds_of("pocket", 8, **none)
    found = {
        one.hypothesis.statement: one for one in claims.findings("pocket", results.by_seed(runs))
    }
    one = found["none-solved share, slope over beta_pos in {0, .25, .5, .75}, below 0"]
    assert one.verdict == "not measurable" and "floor or ceiling" in one.reason
    mechanisms = [one for one in found.values() if one.hypothesis.kind == "mechanism"]
    left = [one for one in mechanisms if one.verdict != "not measurable"]
    assert 0 < len(left) < len(mechanisms)


def test_the_correction_is_over_all_hypotheses_of_a_kind_even_if_they_have_not_run() -> None:
    runs = [
        one for one in seeds_of("pocket", 8) if one.arm in ("asym", "grpo", "pos_only", "reinforce")
    ]
    found = claims.findings("pocket", results.by_seed(runs))
    family = [one for one in found if one.hypothesis.kind == "accuracy"]
    tested = [one for one in family if one.verdict != "not run yet"]
    assert 2 < len(tested) < len(family)
    first = min(tested, key=lambda one: one.test.p)
    assert first.adjusted_p == pytest.approx(min(1, len(family) * first.test.p))


def test_a_measure_that_no_run_has_is_not_measurable() -> None:
    nothing = {arm.name: {"pressure": {"positive": {}, "negative": {}}} for arm in ARMS["pocket"]}
    found = verdicts("pocket", seeds_of("pocket", 4, **nothing))
    peaks = [word for name, word in found.items() if name.startswith("peak of")]
    assert peaks == ["not measurable"] * 2


def test_every_page_can_be_written_after_any_part_of_a_study(tmp_path: Path) -> None:
    everything = seeds_of("pocket", 3)
    for count in (1, 3, 8, 30, len(everything)):
        claims.findings("pocket", results.by_seed(everything[:count]))
    claims.report_claims(tmp_path, {"pocket": everything[:30]})
    for page, found in ((tables.report_table2, everything[:4]), (tables.report_grid, everything)):
        with pytest.raises(UserError, match="no seed has results of all"):
            page(tmp_path, {"pocket": found})
    assert not (tmp_path / "table2.md").exists() and not (tmp_path / "grid.md").exists()


def test_proposition_1_is_tested_in_the_direction_of_kappa() -> None:
    arms = {"pos_only_mixed": {"policy_entropy": 0.4}, "neg_only_mixed": {"policy_entropy": 0.6}}
    negative = {**arms, "reinforce_mixed": {"kappa_hat": -0.02}}
    positive = {**arms, "reinforce_mixed": {"kappa_hat": 0.02}}
    for kappa, word in ((negative, "shown"), (positive, "the opposite")):
        found = verdicts("pocket", seeds_of("pocket", 8, **kappa))
        words = [one for name, one in found.items() if "the sign of kappa" in name]
        assert words == [word] * 2


# What the paper says, apart from this project's own statements: quantity -> (arm, other, sign).
PAPER_SAYS = {
    "entropy": """reinforce_ent reinforce + pos_only reinforce + neg_only reinforce -
        ent_increase grpo + ent_decrease grpo - asym grpo 0""",
    "greedy accuracy": """reinforce_ent pos_only - pos_only reinforce + neg_only reinforce +
        grpo reinforce + grpo pos_only + grpo neg_only + ent_increase grpo - ent_decrease grpo -
        asym asym_sym + asym grpo + asym grpo_clip_higher + asym dr_grpo + asym grpo_ent +
        grpo_clip_higher grpo + asym_clip_higher asym + pos0.9_neg0.5 asym - pos0.9_neg0.5 grpo 0
        """,
    "accuracy at T = 0.4": "asym asym_sym + asym grpo +",
}


def test_hypotheses_have_the_signs_that_the_paper_says() -> None:
    stated = {}
    for quantity, text in PAPER_SAYS.items():
        words = text.split()
        for arm, other, sign in zip(words[::3], words[1::3], words[2::3], strict=True):
            stated[f"{quantity}: {arm} - {other}"] = {"+": 1, "-": -1, "0": 0}[sign]
    ours = {h.name: h.sign for h in HYPOTHESES if ": " in h.name and h.kind != "ours"}
    late = {name for name in ours if name.startswith("late change")}
    assert {ours.pop(name) for name in late} == {-1} and ours == stated


def test_arms_are_what_their_names_say() -> None:
    def advantage(arm: Arm) -> dict:
        job = make_job("pocket", arm, 0)
        return load_config(job.config, job.overrides).advantage.params

    for name, point in (
        ("reinforce_mixed", (1e-6, 1e-6)),
        ("pos_only_mixed", (0.5, 1e-6)),
        ("neg_only_mixed", (1e-6, 0.5)),
    ):
        params = advantage(hypotheses.ON_MIXED[name])
        assert (params["beta_pos"], params["beta_neg"]) == point
    for points, which in ((hypotheses.BY_BETA_POS, 0), (hypotheses.BY_BETA_NEG, 1)):
        for beta, name in points.items():
            at = (beta, 0.0) if which == 0 else (0.0, beta)
            assert betas(*at).name == name
    job = make_job("pocket", UNTRAINED, 0)
    config = load_config(job.config, job.overrides)
    assert config.optim.lr == 0 and config.steps == 1


def test_every_hypothesis_about_a_task_has_its_arms_there() -> None:
    for hypothesis in HYPOTHESES:
        for task in hypothesis.expected:
            names = {arm.name for arm in ARMS[task]}
            assert names >= set(hypothesis.arms), (hypothesis.name, task)
    assert len({h.name for h in HYPOTHESES}) == len(HYPOTHESES)


# --- pages


def test_the_page_of_claims_opens_with_counts_the_central_claim_and_predictions(
    tmp_path: Path,
) -> None:
    runs = {
        task: seeds_of(task, count, asym={"greedy": 0.7})
        for task, count in (("pocket", 8), ("sums", 3))
    }
    runs["sums"] = [replace(one, samples=8, solved=(0, 2, 4, 8)) for one in runs["sums"]]
    page, figure = claims.report_claims(tmp_path, runs)
    text = page.read_text()
    asked = sum(task in h.expected for h in HYPOTHESES for task in runs if h.kind != "ours")
    assert f"Of {asked} statements of the paper" in text
    assert "in greedy accuracy: pocket +0.1" in text and "8 seeds), shown" in text
    assert "| untrained | 8 |" in " ".join(text.split())
    assert "nan" not in text and figure.stat().st_size > 1000
    header, *_ = (line for line in squeezed(text[text.index("## sums") :]) if line[:5] == "| arm")
    assert header == "| arm | seeds | greedy | T = 0.4 | pass@1 | pass@8 | hard half unsolved |"
    rows = [line for line in squeezed(text) if line.startswith(("| grpo |", "| asym |"))]
    assert {line.count("|") for line in rows} == {9, 8}  # pocket has pass@64 too


def test_the_table_has_means_standard_errors_and_paired_differences(tmp_path: Path) -> None:
    gains = {"untrained": -0.3, "grpo": 0.0, "asym": 0.02, "reinforce": -0.1}
    runs = [
        invented("pocket", arm, seed, 0.5 + gain + 0.1 * seed + 0.001 * seed * (arm == "asym"))
        for seed in range(3)
        for arm, gain in gains.items()
    ]
    page, figure = tables.report_table2(tmp_path, {"pocket": runs})
    text = page.read_text()
    lines = {line.split(" | ")[0][2:]: line for line in squeezed(text) if line[:2] == "| "}
    # .52 .621 .722: mean .621, s .101, / sqrt 3 = .058; to GRPO .02 .021 .022, t(.975, 2) = 4.303
    assert "**0.621 ± 0.058**" in lines["asym"]
    assert "+0.021 (+0.019 to +0.023)" in lines["asym"]
    assert "<u>0.600 ± 0.058</u>" in lines["grpo"] and lines["grpo"].endswith("| - |")
    assert "untrained policy has a greedy accuracy of 0.300 ± 0.058" in text
    assert (
        "the best row, `asym`," in text and "not corrected for multiple comparisons): none." in text
    )
    assert figure.stat().st_size > 1000


def test_the_page_of_methods_has_every_row_and_what_it_does(tmp_path: Path) -> None:
    runs = [invented("pocket", "grpo", seed, 0.5 + 0.01 * seed) for seed in range(4)]
    runs += [invented("pocket", "rloo", seed, 0.6 + 0.01 * seed) for seed in range(3)]
    runs += [invented("pocket", "untrained", seed, 0.2) for seed in range(4)]
    (tmp_path / "results").mkdir()
    (tmp_path / "results/cost.json").write_text('{"ratios": {"rloo": 1.25}}')
    (page,) = methods.report_methods(tmp_path, {"pocket": runs})
    lines = squeezed(page.read_text())
    rows = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert {path.stem for path in ROW_DIR.glob("*.yaml")} == {*rows} - {"untrained"}
    (rloo,) = [line for line in lines if line.startswith("| `rloo` | 3 |")]
    assert "0.610 ± 0.006" in rloo and rloo.endswith("| 1.25 | +0.100 (+0.100 to +0.100) |")
    opening = " ".join(lines[:8])
    assert "Better than GRPO in greedy accuracy: `rloo`; worse: none" in opening
    methods.report_methods(tmp_path, {})  # before the first run


def test_the_readme_lists_every_row() -> None:
    text = methods.README.read_text()
    assert methods.with_list(text) == text, "run `python -m studies report methods`"
    page = (methods.README.parent / "docs/methods.md").read_text()
    for name in (*methods.OF_THE_PAPER, *methods.OTHERS):
        one = methods.read_method(name)
        assert f"| `{name}` | {one.what} | {one.settings} |" in squeezed(page)
    with pytest.raises(UserError, match="must have the lines"):
        methods.with_list("# AsymRL")


def test_the_grid_has_a_number_for_every_point_and_says_whether_cells_repeat(
    tmp_path: Path,
) -> None:
    def accuracy(arm: str) -> float:
        params = load_config("pocket_grpo", make_job("pocket", by_name[arm], 0).overrides).advantage
        return params.params["beta_pos"] / 10 + params.params["beta_neg"] / 100

    by_name = {arm.name: arm for arm in GRID_ARMS}
    base = {name: accuracy(name) for name in by_name if name not in ("grpo", "asym", "asym_sym")}
    base |= {"grpo": 0.055, "asym": 0.094, "asym_sym": 0.077}
    runs = [
        invented("pocket", name, seed, number + 0.01 * seed)
        for seed in range(4)
        for name, number in base.items()
    ]
    page, figure = tables.report_grid(tmp_path, {"pocket": runs})
    text = page.read_text()
    assert "| **0.3** | 0.046 | 0.048 | 0.049 | 0.050 | 0.052 | 0.054 |" in squeezed(text)
    assert "0.114 at (0.9, 0.9), the lowest 0.026 at (0.1, 0.1)" in text
    assert "correlate by 1.00" in text and "+0.100" in text and "+0.010" in text
    assert figure.stat().st_size > 1000


def test_the_papers_table_has_our_numbers_beside_the_papers_and_a_dash_for_missing_ones(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "qwen3_4b_asym" / "eval" / "paper"
    folder.mkdir(parents=True)
    entry = {"avg": 0.5, "stderr": 0.01, "problems": 30}
    scores = {
        name: entry | {"samples": 5 if name == "math500" else 10} for name in paper.BENCHMARKS
    }
    (folder / "summary.json").write_text(json.dumps({"benchmarks": scores}))
    training = tmp_path / "qwen3_4b_grpo" / "eval" / "step-000010"
    training.mkdir(parents=True)
    (training / "summary.json").write_text(json.dumps({"benchmarks": {"math500": {"avg": 1.0}}}))
    greedy = tmp_path / "qwen3_4b_base" / "eval" / "greedy"
    greedy.mkdir(parents=True)
    (greedy / "summary.json").write_text(json.dumps({"benchmarks": scores}))
    lines = squeezed(paper.table("qwen3_4b", tmp_path))
    assert "| base, greedy | ours |" + " 50.00 ± 1.00 |" * 5 + " 50.00 |" in lines
    assert "| base | ours | - | - | - | - | - | - |" in lines
    place = lines.index(next(line for line in lines if line.startswith("| asym |")))
    assert lines[place] == "| asym | ours |" + " 50.00 ± 1.00 |" * 5 + " 50.00 |"
    assert lines[place + 1] == "| | paper | 89.33 | 39.33 | 28.67 | 81.00 | 58.48 | 59.36 |"
    assert "| grpo | ours | - | - | - | - | - | - |" in lines  # not the evaluation during training
    assert "math500 30 x 5; aime24 30 x 10" in lines[-1]


def test_the_papers_averages_are_the_means_of_its_benchmarks() -> None:
    for *scores, average in paper.PRINTED["qwen3_4b"].values():
        assert sum(scores) / 5 == pytest.approx(average, abs=0.0101)


@pytest.mark.parametrize(
    "arguments",
    [
        ["table2", "--seeds", "0"],
        ["plan", "grid", "--jobs", "0"],
        ["paper-table", "gpt2"],
        ["plan", "table2", "--tasks", "sums"],
        ["plan", "table2", "--arms", "grpo", "no_such_arm"],
        ["report", "grid", "--docs", "nothing-here"],
    ],
)
def test_invalid_arguments_exit_2_with_one_sentence(
    arguments: list[str], tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_plan_prints_runs_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    (docs / "results").mkdir(parents=True)
    job = make_job("pocket", row("grpo"), 0)
    append(invented("pocket", "grpo", 0, settings=job.settings), docs / "results")
    assert main(["plan", "table2", "--docs", str(docs), "--out", str(tmp_path / "study")]) == 0
    output = capsys.readouterr().out
    assert "table2: 176 runs, 1 already done" in output
    assert "  1/8 grpo: pocket_grpo" in output and "  0/8 asym: pocket_asym" in output
    assert main(["plan", "table2", "--arms", "grpo", "asym", "--docs", str(docs)]) == 0
    assert "table2: 16 runs, 1 already done" in capsys.readouterr().out
    assert not (tmp_path / "study").exists()
