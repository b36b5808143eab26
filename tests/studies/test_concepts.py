"""What docs/concepts.md says about the two propositions, and its figures."""

import re
from pathlib import Path

import pytest
import torch

from studies.concepts import FIGURES, LARGE, SMALL, EntropyStep, entropy_steps, main, masses
from tests.helpers.paths import ROOT

PAGE = (ROOT / "docs" / "concepts.md").read_text()


@pytest.fixture(scope="module")
def steps() -> list[EntropyStep]:
    return entropy_steps()


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.8])
def test_each_channel_presses_most_where_proposition_2_says(beta: float) -> None:
    p, positive, negative = masses(beta)
    assert p[torch.tensor(positive).argmax()] == pytest.approx(1 - beta)
    assert p[torch.tensor(negative).argmax()] == pytest.approx(beta)


def test_small_betas_change_the_entropy_as_proposition_1_says(steps: list[EntropyStep]) -> None:
    slopes = []
    for pos, neg in SMALL:
        predicted = torch.tensor([(pos - neg) * step.kappa for step in steps])
        actual = torch.tensor([step.shifts[pos, neg] for step in steps])
        slopes.append((predicted @ actual / predicted.square().sum()).item())
    assert slopes == pytest.approx([1, 1], abs=0.05)
    assert f"{slopes[0]:.2f} and {slopes[1]:.2f}" in PAGE


def test_one_channel_has_the_predicted_sign_whatever_its_beta(steps: list[EntropyStep]) -> None:
    same = {
        (pos, neg): sum(
            (step.shifts[pos, neg] > 0) == ((pos - neg) * step.kappa > 0) for step in steps
        )
        for pos, neg in LARGE
    }
    assert same[0.5, 0.0] == same[0.0, 0.5] == len(steps) == 40
    assert f"in {same[0.9, 0.4]} of 40 policies" in PAGE
    assert f"(negative in {sum(step.kappa < 0 for step in steps)})" in PAGE


def test_the_page_shows_every_figure(tmp_path: Path) -> None:
    assert main(["--docs", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == FIGURES.keys()
    assert FIGURES.keys() == set(re.findall(r"\((concepts_\w+\.png)\)", PAGE))
