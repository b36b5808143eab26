"""The pool (deadlines, deaths, replacement, with real processes) and the command line."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from asymrl.verifiers import VERIFIERS, make, unreadable
from asymrl.verifiers.__main__ import main, write_lines
from asymrl.verifiers.pool import Pool

pytestmark = pytest.mark.slow  # starts processes

# A verifier whose gold says what happens to its worker.
STUB = r"""
import os, sys, time

def verify(gold, text):
    print("noise on stdout", "\n" * 3)
    if gold == "hang":
        open(text, "w").write(str(os.getpid()))
        while True:
            pass
    if gold == "note":  # one character per job
        open(text, "a").write("x")
        time.sleep(0.5)
        return "correct", None
    if gold == "hang in C":
        9 ** 9 ** 9 ** 9
    if gold == "raise":
        raise RecursionError("too deep")
    if gold == "exit":
        os._exit(3)
    if gold == "pid":
        return "correct", str(os.getpid())
    if gold == "modules":
        return "correct", " ".join(sys.modules)
    return ("correct" if gold == text else "wrong"), text

def is_valid_gold(gold):
    while gold == "hang":
        pass
    return gold != "bad"
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "stub_verifier.py").write_text(STUB)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "stub_verifier"


def pid_in(path: Path) -> int:
    """The process id that a hanging worker wrote; waits for it."""
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    return int(path.read_text())


def ends(pid: int) -> bool:
    """Whether the process ends within 20 seconds."""
    for _ in range(2000):
        stat = Path(f"/proc/{pid}/stat")
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_a_batch_is_verified_correctly_after_every_worker_hung(stub, tmp_path):
    with Pool(stub, workers=2, timeout=0.5) as pool:
        hung = [pool.submit("hang", str(tmp_path / str(i))) for i in range(4)]
        hung.append(pool.submit("hang in C", ""))
        batch = [pool.submit("a", "a" if i % 2 else "b") for i in range(20)]
        assert [future.result().reason for future in hung] == ["timeout"] * 5
        assert [future.result().reward for future in batch] == [i % 2 for i in range(20)]
    assert all(ends(pid_in(tmp_path / str(i))) for i in range(4))


def test_a_killed_worker_loses_its_current_job_only(stub, tmp_path):
    with Pool(stub, workers=1, timeout=60) as pool:
        before = pool.submit("a", "a")
        victim = pool.submit("hang", str(tmp_path / "pid"))
        after = [pool.submit("a", "a"), pool.submit("a", "b")]
        os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)
        assert before.result().reason == "correct"
        assert victim.result().reason == "crashed"
        assert [future.result().reason for future in after] == ["correct", "wrong"]


def test_a_worker_that_exits_on_every_job_is_replaced_every_time(stub):
    with Pool(stub, workers=1, timeout=60) as pool:
        for _ in range(2):
            assert pool.submit("exit", "").result().reason == "crashed"
            assert pool.submit("a", "a").result().reason == "correct"


def test_a_worker_that_dies_between_jobs_loses_no_job(stub):
    with Pool(stub, workers=1, timeout=60) as pool:
        pid = int(pool.submit("pid", "").result().answer or 0)
        os.kill(pid, signal.SIGKILL)
        assert ends(pid)
        verdict = pool.submit("pid", "").result()
        assert verdict.reason == "correct"
        assert verdict.answer != str(pid)


def test_an_exception_gives_crashed_and_its_reason_is_logged(stub, caplog):
    with Pool(stub, workers=1, timeout=60) as pool:
        assert pool.submit("raise", "").result().reason == "crashed"
        assert pool.submit("a", "a").result().reason == "correct"
    assert "RecursionError: too deep" in caplog.text


def test_a_verifier_that_cannot_start_raises_and_gives_no_verdict():
    with Pool("no_such_verifier", workers=1, timeout=5) as pool:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no_such_verifier did not start"):
                pool.submit("a", "a").result()


def test_a_setting_that_the_verifier_does_not_have_gives_no_verdict(stub):
    with (
        Pool(stub, workers=1, timeout=5, settings={"tolerance": 0.1}) as pool,
        pytest.raises(RuntimeError, match="stub_verifier did not start"),
    ):
        pool.submit("a", "a").result()


def test_workers_do_not_load_torch_even_if_the_parent_has(stub):
    import torch

    assert torch.__name__ in sys.modules
    with Pool(stub, workers=1, timeout=60) as pool:
        loaded = (pool.submit("modules", "").result().answer or "").split()
    assert "json" in loaded
    assert not {"torch", "transformers", "numpy"} & set(loaded)


@pytest.mark.parametrize("name", [name for name, entry in VERIFIERS.items() if entry.pooled])
def test_the_pooled_verifiers_do_not_load_torch(name):
    code = f"import {VERIFIERS[name].module}, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mpmath" in run.stdout.split()
    assert not {"torch", "transformers"} & set(run.stdout.split())


def test_the_pool_works_from_another_thread_and_with_any_text():
    texts = ["\\boxed{7}", "\x00\ud800\u2028\\boxed{7}", "é" * 300_000 + "\\boxed{14/2}"]
    reasons: list[str] = []

    def use() -> None:
        with make("math", workers=1, timeout=30) as verifier:
            futures = [verifier.submit("7", text) for text in texts]
            reasons.extend(future.result().reason for future in futures)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert reasons == ["correct"] * 3


def test_closing_cancels_the_jobs_that_have_not_started(stub, tmp_path):
    with Pool(stub, workers=1, timeout=1) as pool:
        running = pool.submit("hang", str(tmp_path / "pid"))
        waiting = [pool.submit("a", "a") for _ in range(3)]
        pid = pid_in(tmp_path / "pid")
    assert running.result().reason == "timeout"
    assert all(future.cancelled() for future in waiting)
    assert ends(pid)
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit("a", "a")


PARENT = """
import sys
from asymrl.verifiers.pool import Pool
pool = Pool("stub_verifier", workers=2, timeout=1)
print(pool.submit("modules", "").result().reason, flush=True)
pool.submit("hang", sys.argv[1])
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_idle_and_hung_workers_end_when_their_parent_is_killed(stub, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "pid")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "correct\n"
        hung = pid_in(tmp_path / "pid")
        children = Path(f"/proc/{parent.pid}/task").glob("*/children")
        workers = {int(pid) for file in children for pid in file.read_text().split()}
        assert hung in workers
        assert len(workers) == 2
        parent.kill()
    assert all(ends(pid) for pid in workers)


LEFT_OPEN = """
import sys
from asymrl.verifiers.pool import Pool
pool = Pool("stub_verifier", workers=1, timeout=60)
futures = [pool.submit("note", sys.argv[1]) for _ in range(8)]
assert futures[0].result().reason == "correct"
"""


def test_a_process_that_exits_without_closing_the_pool_does_not_run_all_jobs(stub, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LEFT_OPEN, str(tmp_path / "notes")]
    subprocess.run(command, env=environment, check=True)
    assert 1 <= len((tmp_path / "notes").read_text()) < 8


def test_golds_that_do_not_parse_are_reported_by_index():
    golds = ["7", r"\frac{", r"\sqrt2", "7", r"\begin{pmatrix} 1 & \phantom", "(1,2)"]
    with make("math", workers=1) as verifier:
        assert unreadable(verifier, golds) == [1, 4]


def test_a_gold_that_hangs_the_verifier_does_not_parse(stub):
    with Pool(stub, workers=1, timeout=0.5) as pool:
        checks = [pool.check(gold) for gold in ("good", "hang", "bad", "good")]
        assert [check.result() for check in checks] == [True, False, False, True]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_prints_one_verdict_per_row_in_order(tmp_path, capsys):
    file = write(
        tmp_path / "rows.jsonl",
        {"id": "a", "gold": "1/2", "response": r"\boxed{0.5}", "expected": True, "tier": "core"},
        {"gold": "x+1", "model_output": r"\boxed{1+x}", "expected": False, "tier": "core"},
        {"id": 3, "gold": "2", "response": "the answer is 2"},
        {
            "id": 4,
            "gold": "2",
            "response": "the answer is 2",
            "policy": "counts an unboxed answer in an explicit closing sentence",
        },
    )
    assert main([str(file), "--workers", "1", "--timeout", "60"]) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["reason"] for row in rows] == ["correct", "correct", "no_answer", "correct"]
    assert [row["reward"] for row in rows] == [1, 1, 0, 1]
    assert [row.get("id") for row in rows] == ["a", None, 3, 4]
    assert [row["answer"] for row in rows] == ["0.5", "1+x", None, "2"]
    assert "3 correct" in printed.err
    assert "core: 1 of 2 as expected (50.0%), 1 accepted wrongly" in printed.err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"gold": "1", "response": "x"}\n{"gold": 2, "response": "x"}', ".jsonl:2: field 'gold'"),
        ('{"gold": "1"}', ".jsonl:1: field 'response'"),
        ("\n[1]", ".jsonl:2: expected a JSON object"),
        ("{", ".jsonl:1: not valid JSON"),
        ('{"gold": "1", "response": "x"}\n{"gold": nan}', ".jsonl:2: not valid JSON"),
        ("[" * 100_000, ".jsonl:1: not valid JSON"),
        ('{"gold": 1' + "0" * 5_000 + "}", ".jsonl:1: not valid JSON"),
        ("\n \n", "no rows"),
        ("", "no rows"),
    ],
)
def test_a_malformed_row_is_named_and_the_output_is_unchanged(tmp_path, capsys, content, named):
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    file.write_text(content)
    out.write_text("kept")
    assert main([str(file), "--out", str(out), "--verifier", "exact"]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert out.read_text() == "kept"
    assert sorted(tmp_path.iterdir()) == [out, file]


@pytest.mark.parametrize(
    "arguments",
    [
        ["missing.jsonl"],
        ["{file}", "--verifier", "maths"],
        ["{file}", "--out", "/no/such/folder/out.jsonl"],
        ["{file}", "--workers", "0"],
        ["{file}", "--timeout", "nan"],
        ["{file}", "--tolerance", "2"],
        ["{file}", "--out", "{file}/out.jsonl"],
        ["{file}", "--timeout", "-1"],
    ],
)
def test_a_bad_argument_gives_one_sentence_and_exit_code_2(tmp_path, arguments):
    file = write(tmp_path / "rows.jsonl", {"gold": "1", "response": r"\boxed{1}"})
    run = subprocess.run(
        [sys.executable, "-m", "asymrl.verifiers", *(a.format(file=file) for a in arguments)],
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1), run.stderr


def test_a_line_that_is_not_utf_8_is_named_and_a_byte_order_mark_is_ignored(tmp_path, capsys):
    row = json.dumps({"gold": "1", "response": r"\boxed{1}"})
    file = tmp_path / "rows.jsonl"
    file.write_bytes(row.encode() + b"\n\xff\xfe\n")
    assert main([str(file), "--verifier", "exact"]) == 2
    error = capsys.readouterr().err
    assert f"{file}:2: not valid JSON" in error
    assert error.count("\n") == 1
    file.write_bytes(row.encode("utf-8-sig"))
    assert main([str(file), "--verifier", "exact"]) == 0


def test_names_from_the_file_are_not_interpreted_as_markup(tmp_path, capsys):
    row = {"gold": "1", "response": r"\boxed{2}", "expected": True}
    file = write(tmp_path / "rows.jsonl", row | {"id": "[/a]", "tier": "[b]x[/c]", "kind": "[/d]"})
    assert main([str(file), "--verifier", "exact"]) == 0
    error = capsys.readouterr().err
    assert "[b]x[/c]: 0 of 1 as expected" in error
    assert "[/d]" in error
    assert "[/a]: not accepted (wrong): '2' for '1'" in error


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    file = write(tmp_path / "rows.jsonl", {"gold": "1", "response": r"\boxed{1}"})
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert main([str(file), "--out", str(pipe), "--verifier", "exact"]) == 0
    reader.join()
    assert pipe.is_fifo()
    assert json.loads(read[0])["reason"] == "correct"


def test_a_link_is_written_through(tmp_path):
    file = write(tmp_path / "rows.jsonl", {"gold": "1", "response": r"\boxed{1}"})
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "out.jsonl", tmp_path / "link"
    link.symlink_to(real)
    assert main([str(file), "--out", str(link), "--verifier", "exact"]) == 0
    assert link.is_symlink()
    assert json.loads(real.read_text())["reason"] == "correct"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the platform has no full device")
@pytest.mark.parametrize("to_stdout", [True, False])
def test_a_full_disk_gives_one_sentence_and_exit_code_2(tmp_path, to_stdout):
    file = write(tmp_path / "rows.jsonl", {"gold": "1", "response": r"\boxed{1}"})
    command = [sys.executable, "-m", "asymrl.verifiers", str(file), "--verifier", "exact"]
    (tmp_path / "full").symlink_to("/dev/full")
    out = [] if to_stdout else ["--out", str(tmp_path / "full")]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run([*command, *out], stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 2
    assert run.stderr.count("error: cannot write") == 1
    assert "Traceback" not in run.stderr
    assert Path("/dev/full").is_char_device()


def test_out_has_every_verdict_and_no_temporary_file_remains(tmp_path):
    rows = [{"gold": str(i), "response": f"\\boxed{{{i % 3}}}"} for i in range(9)]
    file = write(tmp_path / "rows.jsonl", *rows)
    out = tmp_path / "out.jsonl"
    assert main([str(file), "--out", str(out), "--verifier", "exact"]) == 0
    rewards = [json.loads(line)["reward"] for line in out.read_text().splitlines()]
    assert rewards == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert sorted(tmp_path.iterdir()) == [out, file]


def test_an_interrupted_run_leaves_the_output_file_unchanged(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("kept")

    def lines():
        yield "half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lines(lines(), out, sys.stdout)
    assert out.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [out]


def test_labelled_and_hostile_cases_get_the_labelled_verdicts_in_order(shared_data, tmp_path):
    lines = (shared_data / "verifier_cases.jsonl").read_text(encoding="utf-8").split("\n")
    cases = [json.loads(line) for line in lines if line]
    chosen = [case for i, case in enumerate(cases) if case["tier"] == "hostile" or i % 20 == 0]
    file, out = write(tmp_path / "cases.jsonl", *chosen), tmp_path / "out.jsonl"
    arguments = [str(file), "--out", str(out), "--workers", "2", "--timeout", "10"]
    assert main(arguments) == 0
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [verdict["id"] for verdict in verdicts] == [case["id"] for case in chosen]
    pairs = list(zip(verdicts, chosen, strict=True))
    assert all(v["reward"] == case["expected"] for v, case in pairs)
