"""The watchdog in real processes that hang, make progress, are suspended, fail or die."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch._C._distributed_c10d import TCPStore

from asymrl.config.schema import DeadlinesConfig
from asymrl.run.watchdog import alive
from tests.helpers.paths import ROOT

MINUTES = {name: 0.03 for name in DeadlinesConfig.model_fields}  # 1.8 s

WATCHED = f"""
import sys, time
from pathlib import Path
from asymrl.engines.distributed import World
from asymrl.run.watchdog import Watchdog

with Watchdog(World(), {MINUTES}, Path(sys.argv[1])) as watchdog:
    watchdog.log(11, {{}})
    watchdog.phase("generate", 3, 8)
    print("begun", flush=True)
    for n in range(int(sys.argv[2])):
        time.sleep(0.5)
        watchdog.phase("generate", 3 + n, 8)
    time.sleep(float(sys.argv[3]))
print("done")
"""


def watched(folder: Path, progress: int, idle: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WATCHED, str(folder), str(progress), str(idle)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=pipe, stderr=pipe)
    assert process.stdout and process.stdout.readline() == "begun\n"
    return process


def test_a_phase_without_progress_ends_the_process_and_is_named(tmp_path: Path) -> None:
    process = watched(tmp_path, progress=2, idle=600)
    output, error = process.communicate()
    assert process.returncode == 1 and output == ""
    assert "error: rank 0: no rank has made progress for" in error
    assert "(deadlines.generate = 0.03 minutes)" in error
    assert "rank 0 was in generate 4/8 of step 12" in error
    assert "the last checkpoint is complete" in error and error.count("\n") == 1
    assert "in <module>" in (tmp_path / "stuck-rank-0.txt").read_text()


def test_a_phase_that_makes_progress_may_last_longer_than_its_deadline(tmp_path: Path) -> None:
    process = watched(tmp_path, progress=10, idle=0)
    assert process.communicate() == ("done\n", "") and process.returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_suspended_process_is_not_taken_for_a_hung_one(tmp_path: Path) -> None:
    process = watched(tmp_path, progress=3, idle=0)
    process.send_signal(signal.SIGSTOP)
    time.sleep(8)
    process.send_signal(signal.SIGCONT)
    assert process.communicate() == ("done\n", "")


def test_every_phase_has_a_deadline() -> None:
    """Every phase of the loop and of an evaluation."""
    files = ("training/loop.py", "evaluation/evaluate.py", "run/watchdog.py")
    text = "".join((ROOT / "asymrl" / name).read_text() for name in files)
    named = {name for name in DeadlinesConfig.model_fields if f'"{name}"' in text}
    assert named == set(DeadlinesConfig.model_fields)

    phases = set(re.findall(r'clock\("(\w+)"\)|phase\("(\w+)"|tracker\.phase, "(\w+)"', text))
    assert {name for names in phases for name in names if name} <= named


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert alive(os.getpid()) and not alive(process.pid)
    process.wait()
    assert not alive(process.pid)


PAIR = f"""
import sys, time
from pathlib import Path
from asymrl.engines.distributed import World
from asymrl.errors import UserError
from asymrl.run.watchdog import Watchdog

rank, action = int(sys.argv[1]), sys.argv[2]
minutes, folder = {dict.fromkeys(MINUTES, 0.1)}, Path(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with Watchdog(World(rank=rank, size=2), minutes, folder) as watchdog:
    print("begun", flush=True)
    for n in range(20):
        time.sleep(0.5)
        watchdog.phase("generate", n, 99)
        if action == "end" and n == 3:
            break
        if action == "fail" and n == 3:
            raise UserError("mine")
        if action == "crash" and n == 3:
            raise RuntimeError("mine")
        if action == "wait" and n == 3:  # for a rank that never comes
            time.sleep(600)
print("done")
"""


def start(program: str, rank: int, port: int, *arguments: str) -> subprocess.Popen[str]:
    """A rank, without a launcher."""
    pipe, master = subprocess.PIPE, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(rank), *arguments],
        cwd=ROOT,
        env=os.environ | master,
        text=True,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout and process.stdout.readline() == f"{line}\n"


def let_go(process: subprocess.Popen[str]) -> None:
    """The rank waits for a line."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def master_store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def pair(
    folder: Path, first: str, second: str, send: signal.Signals | None = None
) -> list[tuple[int, str]]:
    """Two ranks, each with its action: (exit code, output) of each. send: a signal to rank 1."""
    store = master_store()
    actions = enumerate((first, second))
    ranks = [start(PAIR, rank, store.port, action, str(folder)) for rank, action in actions]
    for rank in ranks:
        wait_for(rank, "ready")
    for rank in ranks:
        let_go(rank)
    for rank in ranks:
        wait_for(rank, "begun")
    if send:
        ranks[1].send_signal(send)
    outputs = ["".join(ranks[0].communicate())]
    if send == signal.SIGSTOP:
        ranks[1].kill()
    outputs.append("".join(ranks[1].communicate()))
    return [(rank.returncode, output) for rank, output in zip(ranks, outputs, strict=True)]


def test_a_rank_that_has_ended_is_not_reported_dead(tmp_path: Path) -> None:
    assert pair(tmp_path, "go", "end") == [(0, "done\n"), (0, "done\n")]


@pytest.mark.parametrize("failure", ["fail", "crash"])
def test_a_failed_rank_ends_the_other_and_only_the_failed_one_reports(
    tmp_path: Path, failure: str
) -> None:
    (code, output), (_, failed) = pair(tmp_path, "wait", failure)
    assert (code, output) == (1, "") and "mine" in failed and "has died" not in failed


def test_a_killed_rank_ends_the_other_and_is_named(tmp_path: Path) -> None:
    """Also before the first check."""
    (code, output), _ = pair(tmp_path, "wait", "go", signal.SIGKILL)
    assert code == 1 and re.search(r"error: rank 0: rank 1 \(process \d+\) has died", output)


def test_a_hung_rank_is_named_with_its_phase(tmp_path: Path) -> None:
    (code, output), _ = pair(tmp_path, "wait", "go", signal.SIGSTOP)
    assert code == 1 and "no rank has made progress for" in output and "rank 1 was in" in output


def test_every_rank_reports_the_phases_of_all(tmp_path: Path) -> None:
    for rank, (code, output) in enumerate(pair(tmp_path, "wait", "wait")):
        assert code == 1 and f"error: rank {rank}: no rank has made progress for" in output
        assert all(f"rank {each} was in generate 3/99" in output for each in (0, 1))


def test_a_watchdog_that_cannot_print_still_ends_the_process(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", WATCHED, str(tmp_path), "0", "600"]
        assert subprocess.run(command, cwd=ROOT, stderr=full).returncode == 1


SURVIVOR = f"""
import signal, sys
from contextlib import ExitStack
from pathlib import Path
from asymrl.engines.distributed import World
from asymrl.run import watchdog
from asymrl.run.early_stop import StopSignals

watchdog.INTERVAL = 600  # the thread checks nothing: only the error itself can name the dead rank
moment, minutes, folder = sys.argv[2], {MINUTES}, Path(sys.argv[3])
with ExitStack() as stack:
    signals = stack.enter_context(StopSignals())
    stack.enter_context(watchdog.Watchdog(World(size=2), minutes, folder))
    if moment == "while the error propagates":
        stack.callback(signal.raise_signal, signal.SIGTERM)
    signals.listen()
    print("begun", flush=True)
    sys.stdin.readline()
    if moment == "before the error":
        signal.raise_signal(signal.SIGTERM)
    raise RuntimeError("Connection closed by peer")  # as a collective does
"""


@pytest.mark.parametrize("moment", ["before the error", "while the error propagates"])
def test_a_rank_names_the_dead_one_though_the_launcher_sends_sigterm(
    tmp_path: Path, moment: str
) -> None:
    """When a rank dies, the launcher sends SIGTERM to the others. It may arrive before a collective
    fails on them, or after."""
    store = master_store()
    survivor = start(SURVIVOR, 0, store.port, moment, str(tmp_path))
    dead = start(PAIR, 1, store.port, "go", str(tmp_path))
    wait_for(survivor, "begun")
    wait_for(dead, "ready")
    let_go(dead)
    wait_for(dead, "begun")
    dead.kill()
    dead.communicate()
    let_go(survivor)
    output, error = survivor.communicate()
    assert f"error: rank 0: rank 1 (process {dead.pid}) has died" in error
    assert "RuntimeError: Connection closed by peer" in error
    assert (survivor.returncode, output) == (1, "")
