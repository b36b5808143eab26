"""Runs that are killed at random moments and started again end like an uninterrupted run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.runs import comparable, same_weights


def killed(kills: int, root: Path, *arguments: str) -> dict:
    """The counts of tests/helpers/killed.py, whose runs all equal the uninterrupted one."""
    command = [sys.executable, "-m", "tests.helpers.killed", str(kills), "0", str(root), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + (root / "log").read_text()[-3000:]
    *folders, counts = map(json.loads, done.stdout.splitlines())
    whole = root / "whole"
    for folder in (Path(row["folder"]) for row in folders):
        assert comparable(folder) == comparable(whole)
        assert same_weights(folder, whole)
        for kind in ("rollouts/*", "eval/*/*.jsonl"):
            names = sorted(path.relative_to(whole) for path in whole.glob(kind))
            assert names == sorted(path.relative_to(folder) for path in folder.glob(kind))
            assert all((folder / n).read_bytes() == (whole / n).read_bytes() for n in names)
        leftovers = [path for path in folder.rglob("*") if ".tmp" in path.name]
        assert not leftovers, leftovers
    return counts


def test_a_run_killed_anywhere_equals_an_uninterrupted_one(
    config_file: Path, tmp_path: Path
) -> None:
    counts = killed(6, tmp_path, "--config", str(config_file))
    assert counts["kills"] >= 6


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_pocket_run_killed_a_hundred_times_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "asymrl.pocket"], cwd=ROOT, check=True)
    arguments = ["steps=12", "checkpoint.every=1", "eval.every=4", "policy.threads=1"]
    counts = killed(100, tmp_path, "--config", "pocket_asym.yaml", *arguments, "eval.limit=32")
    print(counts)
    assert counts["kills"] >= 100 and counts["mid_save"] > 0
