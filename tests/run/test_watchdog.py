"""The watch, on real processes: one that hangs, one that goes on, one that was suspended."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

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

with Watchdog(World(), {MINUTES}, Path(sys.argv[1])) as watch:
    watch.log(11, {{}})
    watch.phase("generate", 3, 8)
    print("begun", flush=True)
    for n in range(int(sys.argv[2])):
        time.sleep(0.5)
        watch.phase("generate", 3 + n, 8)
    time.sleep(float(sys.argv[3]))
print("through")
"""


def watched(folder: Path, news: int, silence: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WATCHED, str(folder), str(news), str(silence)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=pipe, stderr=pipe)
    assert process.stdout and process.stdout.readline() == "begun\n"
    return process


def test_a_phase_without_news_ends_the_process_and_says_where_it_was(tmp_path: Path) -> None:
    process = watched(tmp_path, news=2, silence=600)
    output, error = process.communicate()
    assert process.returncode == 1 and output == ""
    assert "error: rank 0: no news for" in error and "where 0.03 minutes are the limit" in error
    assert "rank 0 was in generate 4/8 of step 12" in error
    assert "what was saved is whole" in error and error.count("\n") == 1
    assert "in <module>" in (tmp_path / "stuck-rank-0.txt").read_text()


def test_progress_is_news(tmp_path: Path) -> None:
    process = watched(tmp_path, news=10, silence=0)
    assert process.communicate() == ("through\n", "") and process.returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_process_that_was_suspended_was_not_stuck(tmp_path: Path) -> None:
    process = watched(tmp_path, news=3, silence=0)
    process.send_signal(signal.SIGSTOP)
    time.sleep(8)
    process.send_signal(signal.SIGCONT)
    assert process.communicate() == ("through\n", "")


def test_every_phase_has_a_deadline() -> None:
    """All that the loop and an evaluation call a phase."""
    files = ("training/loop.py", "evaluation/evaluate.py", "run/watchdog.py")
    text = "".join((ROOT / "asymrl" / name).read_text() for name in files)
    named = {name for name in DeadlinesConfig.model_fields if f'"{name}"' in text}
    assert named == set(DeadlinesConfig.model_fields)

    told = set(re.findall(r'clock\("(\w+)"\)|phase\("(\w+)"|tracker\.phase, "(\w+)"', text))
    assert {name for names in told for name in names if name} <= named


def test_a_dead_process_is_not_alive_even_before_anyone_waited_for_it() -> None:
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

rank, what = int(sys.argv[1]), sys.argv[2]
with Watchdog(World(rank=rank, size=2), {dict.fromkeys(MINUTES, 0.1)}, Path(sys.argv[3])) as watch:
    print("begun", flush=True)
    for n in range(20):
        time.sleep(0.5)
        watch.phase("generate", n, 99)
        if what == "end" and n == 3:
            break
        if what == "fail" and n == 3:
            raise UserError("mine")
        if what == "wait" and n == 3:  # for a rank that never comes
            time.sleep(600)
print("through")
"""


def pair(folder: Path, first: str, second: str, send: signal.Signals | None = None) -> list:
    """Two ranks, no launcher: (exit code, what they said) of each."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    pipe, ranks = subprocess.PIPE, []
    for rank, what in enumerate((first, second)):
        command = [sys.executable, "-c", PAIR, str(rank), what, str(folder)]
        ranks.append(
            subprocess.Popen(
                command, cwd=ROOT, env=os.environ | there, text=True, stdout=pipe, stderr=pipe
            )
        )
    for rank in ranks:
        assert rank.stdout.readline() == "begun\n"
    if send:
        ranks[1].send_signal(send)
    output, error = ranks[0].communicate()
    if send == signal.SIGSTOP:
        ranks[1].kill()
    said = ranks[1].communicate()
    return [(ranks[0].returncode, output + error), (ranks[1].returncode, "".join(said))]


def test_a_rank_that_ends_is_not_gone(tmp_path: Path) -> None:
    assert pair(tmp_path, "go", "end") == [(0, "through\n"), (0, "through\n")]


def test_a_rank_that_fails_ends_the_other_which_leaves_it_the_word(tmp_path: Path) -> None:
    (code, said), (_, failed) = pair(tmp_path, "wait", "fail")
    assert (code, said) == (1, "") and "mine" in failed


def test_a_rank_that_is_killed_ends_the_other_at_once(tmp_path: Path) -> None:
    """Before its first look at the others, too."""
    (code, said), _ = pair(tmp_path, "wait", "go", signal.SIGKILL)
    assert code == 1 and "error: rank 0: rank 1 (process" in said and "is gone" in said


def test_a_rank_that_hangs_is_named_with_its_phase(tmp_path: Path) -> None:
    (code, said), _ = pair(tmp_path, "wait", "go", signal.SIGSTOP)
    assert code == 1 and "no news for" in said and "rank 1 was in" in said


def test_every_rank_says_where_all_are(tmp_path: Path) -> None:
    for rank, (code, said) in enumerate(pair(tmp_path, "wait", "wait")):
        assert code == 1 and f"error: rank {rank}: no news for" in said
        assert all(f"rank {each} was in generate 3/99" in said for each in (0, 1))


def test_a_watch_that_cannot_speak_still_ends_the_process(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", WATCHED, str(tmp_path), "0", "600"]
        assert subprocess.run(command, cwd=ROOT, stderr=full).returncode == 1
