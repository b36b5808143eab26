"""The processes of a run: what their environment says, and those that never come."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch._C._distributed_c10d import TCPStore

from asymrl.engines import distributed as worlds
from asymrl.engines.distributed import World
from asymrl.errors import ReportedByRankZero, UserError
from asymrl.run.watchdog import Watchdog
from tests.helpers.paths import ROOT


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x is no number"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK=-1 is no number"),
        ({"RANK": "3", "WORLD_SIZE": "2"}, "RANK=3 must be below WORLD_SIZE=2"),
        ({"WORLD_SIZE": "0"}, "RANK=0 must be below WORLD_SIZE=0"),
        ({"WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "here"}, "MASTER_PORT is not set"),
        (
            {"WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"},
            "RANK is not set",
        ),
        ({"MASTER_PORT": "x"}, "MASTER_PORT=x is no number"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x is no number"),
    ],
)
def test_an_environment_that_is_no_launchers_is_refused(monkeypatch, environment, said) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert worlds.from_environment() == World()
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=said):
        worlds.from_environment()


JOIN = """
import sys
import torch.distributed as dist
from asymrl.engines import distributed as worlds
from asymrl.run.exit_codes import exit_code

def run():
    world = worlds.from_environment()
    worlds.join(world, minutes=float(sys.argv[1]))
    assert world.gather(world.rank) == [*range(world.size)]
    dist.destroy_process_group()  # else its thread may still be at work when the process ends
    return 0

sys.exit(exit_code(run))
"""


def joining(
    rank: int, size: int, port: int, launched: bool, minutes: float = 0.05, restarts: int = 0
) -> subprocess.Popen[str]:
    there = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    there |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    there |= {"TORCHELASTIC_USE_AGENT_STORE": str(launched), "PYTHONPATH": str(ROOT)}
    there |= {"TORCHELASTIC_RESTART_COUNT": str(restarts)}
    command = [sys.executable, "-c", JOIN, str(minutes)]
    return subprocess.Popen(command, env=os.environ | there, stderr=subprocess.PIPE, text=True)


def test_ranks_that_never_come_are_named() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [joining(rank, 4, store.port, launched=True) for rank in (0, 2)]
    for process in ranks:
        _, error = process.communicate()
        assert process.returncode == 2
        assert "error: of 4 processes, rank 1, 3 did not come within 0.05 minutes" in error


def test_a_restarted_launch_waits_for_its_own_processes() -> None:
    """torchrun --max-restarts keeps the store, with all that the attempt before wrote into it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [joining(rank, 2, store.port, launched=True, minutes=2) for rank in range(2)]
    assert [process.communicate()[1] for process in ranks] == ["", ""]
    assert [process.returncode for process in ranks] == [0, 0]
    _, error = joining(0, 2, store.port, launched=True, restarts=1).communicate()
    assert "error: of 2 processes, rank 1 did not come within 0.05 minutes" in error


def test_a_first_rank_that_is_alone_says_so() -> None:
    """Started by hand, it holds the store itself."""
    free = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = free.port
    del free
    process = joining(0, 2, port, launched=False)
    _, error = process.communicate()
    assert process.returncode == 2
    assert f"error: the processes did not meet at 127.0.0.1:{port} (deadlines.load = 0.05" in error


def test_what_the_first_one_said_is_not_said_again(monkeypatch) -> None:
    met = UserError("one sentence")
    for rank, raised in ((0, UserError), (1, ReportedByRankZero)):
        world = World(rank=rank, size=2)
        monkeypatch.setattr(World, "gather", lambda self, mine: [met, None])
        with pytest.raises(UserError, match="one sentence") as caught, world.in_turn():
            pass
        assert type(caught.value) is raised


def test_processes_of_another_node_are_not_looked_for(monkeypatch, tmp_path: Path) -> None:
    """Their numbers are of other processes here, or of none."""
    watch = Watchdog(World(rank=5, size=8), {}, tmp_path)
    assert [watch._near(rank) for rank in range(8)] == [True] * 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [watch._near(rank) for rank in range(8)] == [False] * 4 + [True] * 4
