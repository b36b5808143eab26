"""The watch, on real processes: one that hangs, one that goes on, one that was suspended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from asymrl.schema import Deadlines
from asymrl.watch import alive

ROOT = Path(__file__).resolve().parents[1]
MINUTES = {name: 0.03 for name in Deadlines.model_fields}  # 1.8 s

WATCHED = f"""
import sys, time
from pathlib import Path
from asymrl.engines.world import World
from asymrl.watch import Watch

with Watch(World(), {MINUTES}, Path(sys.argv[1])) as watch:
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
    text = "".join((ROOT / "asymrl" / f"{n}.py").read_text() for n in ("loop", "evaluate", "watch"))
    named = {name for name in Deadlines.model_fields if f'"{name}"' in text}
    assert named == set(Deadlines.model_fields)
    import re

    told = set(re.findall(r'clock\("(\w+)"\)|phase\("(\w+)"|tracker\.phase, "(\w+)"', text))
    assert {name for names in told for name in names if name} <= named


def test_a_dead_process_is_not_alive_even_before_anyone_waited_for_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert alive(os.getpid()) and not alive(process.pid)
    process.wait()
    assert not alive(process.pid)
