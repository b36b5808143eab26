"""Two ranks with a ZeRO-3 policy under torchrun: both get SIGTERM, one dies, one hangs. Each launch
resumes the run that the one before it left, so the tests run in this order, all of them. The
rollout engine is hf, because it starts sooner and the watchdog is the same."""

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
SHORT_DEADLINES = [
    f"deadlines.{phase}=0.15" for phase in DeadlinesConfig.model_fields if phase != "load"
]


class Launched:
    """`torchrun train.py` on two ranks, which resumes the run in `folder`."""

    def __init__(self, config_file: Path, folder: Path, log: Path, *overrides: str) -> None:
        self.folder, self.log = folder, log
        command = ["torchrun", "--nproc-per-node", "2", "train.py", "--config", str(config_file)]
        command += ["--output-dir", str(folder), *STEPS, "verifier.name=exact", *overrides]
        environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            environment.pop(name, None)
        with self.log.open("w") as file:
            self.launcher = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, close_fds=True
            )

    def wait_for_steps(self, count: int) -> None:
        """Until this launch has logged `count` steps."""
        while self.log.read_text().count("  reward ") < count:
            assert self.launcher.poll() is None, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def wait_for_line(self, start: str) -> None:
        """Until a line of the log begins with `start`."""
        while f"\n{start}" not in self.log.read_text():
            assert self.launcher.poll() is None, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def rank(self, number: int) -> int:
        """The process id of a rank."""
        children = Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children")
        for child in map(int, children.read_text().split()):
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            if b"RANK=%d" % number in variables:
                return child
        raise AssertionError(f"no rank {number}")

    def output_of_failure(self) -> str:
        """Wait until the launcher exits with an error."""
        assert self.launcher.wait() != 0
        return self.log.read_text()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks") / "run"


@pytest.fixture
def launched(config_file: Path, run_dir: Path, tmp_path: Path) -> Iterator[Launched]:
    launched = Launched(config_file, run_dir, tmp_path / "log", *SHORT_DEADLINES)
    try:
        yield launched
    finally:
        if launched.launcher.poll() is None:
            launched.launcher.kill()


def last_checkpoint(run_dir: Path) -> Path:
    """The last checkpoint, which is undamaged."""
    saved = checkpoint.latest(run_dir)
    assert saved is not None
    checkpoint.check_digests(saved)
    return saved


def last_step(run_dir: Path) -> int:
    """Of the last checkpoint; 0 without one."""
    saved = checkpoint.latest(run_dir) if run_dir.is_dir() else None
    return checkpoint.load_position(saved).step if saved else 0


def test_ranks_stopped_by_a_signal_save_the_last_step(launched: Launched) -> None:
    launched.wait_for_steps(2)
    launched.launcher.send_signal(signal.SIGTERM)
    output = launched.output_of_failure()
    assert "stopped: SIGTERM; all finished steps are saved" in output, output[-4000:]
    done = metrics(launched.folder)[-1]["step"]
    assert checkpoint.load_position(last_checkpoint(launched.folder)).step == done


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds ranks in /proc")
def test_a_rank_that_dies_takes_the_other_down(launched: Launched) -> None:
    """Rank 0 names the dead rank, whatever it notices first: the death, a failing collective, or
    the launcher's SIGTERM (test_watchdog.py has each order by itself). The launch resumes the
    folder that the signal left; metrics.jsonl has every step once."""
    resumed_from = last_step(launched.folder)
    assert resumed_from > 0, "the test before this one must run first"
    launched.wait_for_steps(6)
    dead = launched.rank(1)
    os.kill(dead, signal.SIGKILL)
    output = launched.output_of_failure()
    assert f"error: rank 0: rank 1 (process {dead}) has died" in output, output[-4000:]
    logged = [int(step) for step in re.findall(r" step (\d+)/100000 ", output)]
    assert logged[0] == resumed_from + 1, output[-4000:]
    last_checkpoint(launched.folder)
    steps = [row["step"] for row in metrics(launched.folder)]
    assert steps == list(range(len(steps))) and steps[-1] >= resumed_from + 6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds ranks in /proc")
def test_a_rank_that_hangs_ends_the_run_and_is_named(launched: Launched) -> None:
    launched.wait_for_steps(2)
    hung = launched.rank(1)
    os.kill(hung, signal.SIGSTOP)
    launched.wait_for_line("error: ")
    os.kill(hung, signal.SIGKILL)  # torchrun would do it 30 s later
    output = launched.output_of_failure()
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: rank 0: no rank has made progress for")
    assert "= 0.15 minutes" in line and "of step" in line
    assert "rank 0 was in " in line and "rank 1 was in " in line
    last_checkpoint(launched.folder)
