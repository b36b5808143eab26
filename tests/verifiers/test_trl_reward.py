"""examples/trl_reward.py: the reward function by itself, and in TRL's trainer."""

import os
import runpy
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asymrl.verifiers import make
from tests.helpers.paths import ROOT

EXAMPLE = ROOT / "examples" / "trl_reward.py"
TRL = ROOT / "runs" / "bench" / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def reward() -> Iterator[Callable[..., list[float]]]:
    with make("math", workers=2, timeout=2.0) as verifier:
        yield runpy.run_path(str(EXAMPLE))["reward_function"](verifier, column="solution")


@pytest.mark.slow
def test_texts_and_conversations_are_rewarded(reward) -> None:
    texts = [r"so \boxed{0.5}", r"so \boxed{0.51}", "no box", r"\boxed{\frac{2}{4}}"]
    conversations = [[{"role": "assistant", "content": text}] for text in texts]
    given = {"solution": ["1/2"] * 4, "prompts": ["?"] * 4, "trainer_state": None}
    shares: dict[str, float] = {}
    for completions in (texts, conversations):
        rewards = reward(completions=completions, log_metric=shares.__setitem__, **given)
        assert rewards == [1.0, 0.0, 0.0, 1.0]
        assert reward(completions=completions, **given) == rewards
    assert sum(shares.values()) == 1
    assert (shares["verifier/correct"], shares["verifier/no_answer"]) == (0.5, 0.25)


@pytest.mark.slow
def test_hostile_completions_cost_only_their_own_reward(reward) -> None:
    hostile = [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{" + "(" * 50_000 + "}", "\\boxed{\x00\ud800}"]
    rewards = reward(completions=[*hostile, r"\boxed{7}"], solution=["7"] * 4)
    assert rewards == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.slow
def test_trl_trains_with_it(model_folder: Path, tmp_path: Path) -> None:
    if not TRL.is_file():
        pytest.skip("TRL has an environment of its own, which `make bench-step` creates")
    done = subprocess.run(
        [TRL, EXAMPLE, "--model", model_folder, "--steps", "2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert "2000 problems; golds that cannot be read: 0" in lines
    assert [line[:14] for line in lines[-2:]] == ["step 1: reward", "step 2: reward"]
