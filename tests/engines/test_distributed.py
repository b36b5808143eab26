"""The processes of a run: reading the environment, and processes that never start."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch._C._distributed_c10d import TCPStore

from asymrl.engines import distributed as worlds
from asymrl.engines.distributed import World
from asymrl.errors import ReportedByRankZero, UserError
from asymrl.run.watchdog import Watchdog
from tests.helpers.paths import ROOT

LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x is not a non-negative integer"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK=-1 is not a non-negative integer"),
        ({"RANK": "3", "WORLD_SIZE": "2"}, "RANK=3 must be below WORLD_SIZE=2"),
        ({"WORLD_SIZE": "0"}, "RANK=0 must be below WORLD_SIZE=0"),
        ({"WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "here"}, "MASTER_PORT is not set"),
        (
            {"WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"},
            "RANK is not set",
        ),
        ({"MASTER_PORT": "x"}, "MASTER_PORT=x is not a non-negative integer"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x is not a non-negative integer"),
        (LAUNCHED | {"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE=0, .* must divide WORLD_SIZE=2"),
        (LAUNCHED | {"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE=3, .* must divide WORLD_SIZE=2"),
    ],
)
def test_an_invalid_environment_is_an_error(monkeypatch, environment, sentence) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert worlds.from_environment() == World()
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=sentence):
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
    dist.destroy_process_group()  # else its thread may still run when the process ends
    return 0

sys.exit(exit_code(run))
"""


def joining(
    rank: int, size: int, port: int, launched: bool, minutes: float = 0.05, restarts: int = 0
) -> subprocess.Popen[str]:
    """A process that joins. launched: a launcher holds the store, as this test then does."""
    variables = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    variables |= {"TORCHELASTIC_USE_AGENT_STORE": str(launched), "PYTHONPATH": str(ROOT)}
    variables |= {"TORCHELASTIC_RESTART_COUNT": str(restarts)}
    command = [sys.executable, "-c", JOIN, str(minutes)]
    return subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.PIPE, text=True)


def test_ranks_that_never_start_are_named() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [joining(rank, 4, store.port, launched=True) for rank in (0, 2)]
    for process in ranks:
        _, error = process.communicate()
        assert process.returncode == 2
        assert "error: rank 1, 3 of 4 processes did not start within 0.05 minutes" in error


def test_a_restarted_launch_waits_for_its_own_processes() -> None:
    """torchrun --max-restarts keeps the store with everything that the previous attempt wrote."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [joining(rank, 2, store.port, launched=True, minutes=2) for rank in range(2)]
    assert [process.communicate()[1] for process in ranks] == ["", ""]
    assert [process.returncode for process in ranks] == [0, 0]
    _, error = joining(0, 2, store.port, launched=True, restarts=1).communicate()
    assert "error: rank 1 of 2 processes did not start within 0.05 minutes" in error


def test_rank_0_alone_reports_that_the_others_are_missing() -> None:
    """Without a launcher, rank 0 holds the store itself."""
    free = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = free.port
    del free
    process = joining(0, 2, port, launched=False)
    _, error = process.communicate()
    assert process.returncode == 2
    assert f"error: the processes did not meet at 127.0.0.1:{port} (deadlines.load = 0.05" in error


class RankZeroFails(World):
    """A world of two in which rank 0 has a UserError to report."""

    def gather(self, mine: object) -> list[Any]:
        return [UserError("one sentence"), None]


def test_an_error_of_rank_0_is_reported_once() -> None:
    for rank, kind in ((0, UserError), (1, ReportedByRankZero)):
        world = RankZeroFails(rank=rank, size=2)
        with pytest.raises(UserError, match="one sentence") as caught, world.rank_zero_first():
            pass
        assert type(caught.value) is kind


def test_processes_of_another_node_are_not_checked(tmp_path: Path) -> None:
    """A process id means nothing on another node."""
    for nodes, expected in ((1, [True] * 8), (2, [False] * 4 + [True] * 4)):
        watchdog = Watchdog(World(rank=5, size=8, nodes=nodes), {}, tmp_path)
        assert [watchdog._on_this_node(rank) for rank in range(8)] == expected


def test_the_launcher_says_how_many_processes_are_on_a_node(monkeypatch) -> None:
    launched = LAUNCHED | {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
    for name, text in launched.items():
        monkeypatch.setenv(name, text)
    world = worlds.from_environment()
    assert (world.nodes, world.local_size) == (2, 8)
    with pytest.raises(UserError, match="tensor_parallel = 16 must divide the 8 processes of a no"):
        worlds.from_environment(16)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert worlds.from_environment().local_size == 16
