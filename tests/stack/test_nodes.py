"""Several nodes: here, several launchers on the loopback address, which know nothing of each
other's processes. LOCAL_WORLD_SIZE, the ranks and the rendezvous are those of real nodes."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

import train
from asymrl.run import checkpoint
from tests.helpers.paths import BIN, ROOT
from tests.helpers.runs import metrics

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: `make stack`"
)
needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vLLM is not installed: `make stack`"
)
pytestmark = [needs_deepspeed, pytest.mark.timeout(600)]
TIMELESS = ("rollout/", "reward/", "loss/", "optim/", "policy/", "eval/")


@contextmanager
def nodes(
    tmp_path: Path, processes: int, *arguments: str, folders: Sequence[Path] = (ROOT, ROOT)
) -> Iterator[list[tuple[subprocess.Popen, Path]]]:
    """torchrun on two nodes with that many processes each; launchers and their logs.

    folders: the working directory of each node.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    launched = []
    try:
        for node, folder in enumerate(folders):
            command = ["torchrun", "--nnodes", "2", "--node-rank", str(node)]
            command += ["--nproc-per-node", str(processes)]
            command += ["--master-addr", "127.0.0.1", "--master-port", str(port), *arguments]
            log = tmp_path / f"node-{node}.log"
            with log.open("w") as file:
                launcher = subprocess.Popen(
                    command, cwd=folder, env=environment, stdout=file, stderr=file
                )
            launched.append((launcher, log))
        yield launched
    finally:
        for launcher, _ in launched:
            if launcher.poll() is None:
                launcher.kill()


def output(launched: list[tuple[subprocess.Popen, Path]], code: Callable[[int], bool]) -> str:
    """What all nodes printed, once their launchers have ended with a valid code."""
    codes = [launcher.wait(300) for launcher, _ in launched]
    text = "".join(log.read_text() for _, log in launched)
    assert all(map(code, codes)), (codes, text[-6000:])
    return text


@needs_vllm
def test_a_run_on_two_nodes_stops_for_one_of_them_and_resumes_on_one_process(
    config_file: Path, tmp_path: Path
) -> None:
    """vLLM and ZeRO-3 on each node; the second one is asked to stop, as by its scheduler."""
    folder = tmp_path / "run"
    arguments = ["--config", str(config_file), "--output-dir", str(folder), "verifier.name=exact"]
    stack = ["rollout.engine=vllm", "steps=100000"]
    with nodes(tmp_path, 1, str(ROOT / "train.py"), *arguments, *stack) as launched:
        (first, log), (second, _) = launched
        while log.read_text().count("  reward ") < 2:
            assert first.poll() is None, log.read_text()[-4000:]
            time.sleep(0.05)
        second.send_signal(signal.SIGTERM)
        text = output(launched, lambda code: True)
    assert "stopped: SIGTERM; all finished steps are saved" in text, text[-4000:]
    assert "processes: " not in text  # which are compared with GPUs only
    saved = checkpoint.latest(folder)
    assert saved and (saved / checkpoint.state_file(1, 2)).is_file()
    step = checkpoint.load_position(saved).step
    assert metrics(folder)[-1]["step"] == step >= 2
    assert train.main([*arguments, f"steps={step + 1}"]) == 0
    assert [row["step"] for row in metrics(folder)] == list(range(step + 2))
    started = json.loads((folder / "environment.json").read_text())
    assert [each["processes"] for each in started] == [2, 1]


def test_two_nodes_of_two_processes_train_like_one_process(
    config_file: Path, tmp_path: Path
) -> None:
    """Each node holds all weights (hpZ). With hf, a sample depends on its seed and the weights
    only, so both runs have the same rollouts."""
    common = ["--config", str(config_file), "verifier.name=exact", "steps=2", "rollout.engine=hf"]
    two = ["--output-dir", str(tmp_path / "two"), "policy.backend=deepspeed"]
    with nodes(tmp_path, 2, str(ROOT / "train.py"), *common, *two) as launched:
        text = output(launched, lambda code: code == 0)
    assert text.count("step 2/2") == 1  # only rank 0 prints
    assert train.main([*common, "--output-dir", str(tmp_path / "one")]) == 0
    for ours, theirs in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        names = [name for name in theirs if name.startswith(TIMELESS)]
        expected = {name: theirs[name] for name in names}
        assert {name: ours[name] for name in names} == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_run_folder_that_the_nodes_do_not_share_is_one_sentence(
    config_file: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    arguments = ["--config", str(config_file), "--output-dir", "run", "verifier.name=exact"]
    with nodes(tmp_path, 1, str(ROOT / "train.py"), *arguments, folders=folders) as launched:
        text = output(launched, bool)
    assert text.count("error: ") == 1 and "node 1 does not see the files of node 0" in text
    assert not any(any(folder.iterdir()) for folder in folders)
