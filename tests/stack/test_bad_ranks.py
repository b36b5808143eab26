"""Two ranks with a ZeRO-3 policy, as users launch them, on a bad day: one dies, one hangs, both are
asked to stop. Rollouts are transformers', since the watch is the same and they start sooner."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from asymrl.config.schema import DeadlinesConfig
from asymrl.run import checkpoint
from tests.helpers.paths import BIN, ROOT
from tests.helpers.runs import metrics

pytestmark = [
    pytest.mark.skipif(
        find_spec("deepspeed") is None, reason="DeepSpeed is not installed: `make stack`"
    ),
    pytest.mark.timeout(900),
]
STEPS = ["rollout.engine=hf", "policy.backend=deepspeed", "steps=100000", "checkpoint.every=5"]


TIGHT = [f"deadlines.{phase}=0.2" for phase in DeadlinesConfig.model_fields if phase != "load"]


class Launched:
    """`torchrun train.py` on two ranks, its log a file."""

    def __init__(self, config_file: Path, folder: Path, *overrides: str) -> None:
        self.folder, self.log = folder, folder.with_suffix(".log")
        command = ["torchrun", "--nproc-per-node", "2", "train.py", "--config", str(config_file)]
        command += ["--output-dir", str(folder), *STEPS, "verifier.name=exact", *overrides]
        environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            environment.pop(name, None)
        with self.log.open("a") as file:
            self.launcher = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, close_fds=True
            )

    def until(self, step: int) -> None:
        file = self.folder / "metrics.jsonl"
        while not file.is_file() or file.read_text().count("\n") <= step:
            assert self.launcher.poll() is None, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def rank(self, number: int) -> int:
        """Its process."""
        children = Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children")
        for child in map(int, children.read_text().split()):
            facts = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            if b"RANK=%d" % number in facts:
                return child
        raise AssertionError(f"no rank {number}")

    def ended(self) -> str:
        assert self.launcher.wait() != 0
        return self.log.read_text()


@pytest.fixture
def launched(config_file: Path, tmp_path: Path) -> Iterator[Launched]:
    launched = Launched(config_file, tmp_path / "run", *TIGHT)
    try:
        yield launched
    finally:
        if launched.launcher.poll() is None:
            launched.launcher.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds ranks in /proc")
def test_a_rank_that_dies_takes_the_other_down(launched: Launched) -> None:
    launched.until(step=6)
    os.kill(launched.rank(1), signal.SIGKILL)
    output = launched.ended()
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    # by the watch, or by the collective that the dead rank was missed in: whichever sees it first
    assert re.search("is gone|Connection (closed|reset) by peer", output), output[-4000:]
    assert all("rank 1" in line for line in lines), lines
    saved = checkpoint.latest(launched.folder)
    assert saved is not None
    checkpoint.check_digests(saved)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds ranks in /proc")
def test_a_rank_that_hangs_ends_the_run_and_is_named(launched: Launched) -> None:
    launched.until(step=6)
    hung = launched.rank(1)
    os.kill(hung, signal.SIGSTOP)
    output = launched.ended()
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: rank 0: no news for") and "0.2 minutes" in line
    assert "rank 0 was in " in line and "rank 1 was in " in line and "of step" in line
    assert not Path(f"/proc/{hung}").exists()
    saved = checkpoint.latest(launched.folder)
    assert saved is not None
    checkpoint.check_digests(saved)


def test_ranks_that_are_asked_to_stop_save_and_go_on(launched: Launched, config_file: Path) -> None:
    launched.until(step=2)
    launched.launcher.send_signal(signal.SIGTERM)
    output = launched.ended()
    assert "stopped: SIGTERM; all that is done is saved" in output, output[-4000:]
    done = metrics(launched.folder)[-1]["step"]
    saved = checkpoint.latest(launched.folder)
    assert saved is not None and checkpoint.load_position(saved)[0].step == done
    again = Launched(config_file, launched.folder, f"steps={done + 2}")
    assert again.launcher.wait() == 0, again.log.read_text()[-4000:]
    assert [row["step"] for row in metrics(launched.folder)] == list(range(done + 3))
