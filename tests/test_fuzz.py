"""Random configs, data rows and checkpoints' metadata: an answer, or one sentence. Never another
error, never a hang, never a heap of memory."""

import json
import random
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
import yaml
from pyarrow import parquet

from asymrl import verifiers
from asymrl.config.load import CONFIG_DIR, dump_config, load_config
from asymrl.config.read import flatten
from asymrl.config.schema import ModelConfig
from asymrl.data import problems
from asymrl.engines import memory, pretrained
from asymrl.run import checkpoint, environment
from asymrl.run import folder as run_folder
from tests.helpers.fuzzing import KEYS, NUMBERS, TEXTS, fuzz, spoil, spoil_bytes, spoil_json, vary
from tests.helpers.policies import policy

SHORT = {"configs": 300, "rows": 300, "tables": 30, "trainer": 300, "state": 100, "tokenizer": 40}
SHORT |= {"model": 40, "run": 150}
LONG = {"configs": 20_000, "rows": 58_000, "tables": 1_000, "trainer": 10_000, "state": 5_000}
LONG |= {"tokenizer": 1_500, "model": 1_500, "run": 3_000}
assert sum(LONG.values()) == 100_000


def cases(part: str) -> pytest.MarkDecorator:
    """A few hundred cases always, and all of them in `make test-all`."""
    whole = pytest.param(LONG[part], marks=[pytest.mark.long, pytest.mark.timeout(3600)])
    return pytest.mark.parametrize("count", [SHORT[part], whole])


# ---- configs

OWN = [yaml.safe_load(path.read_text()) for path in sorted(CONFIG_DIR.glob("*.yaml"))]
WHOLE = [c for c in OWN if "base" not in c]
DOTTED = sorted(flatten(load_config("pocket_asym").model_dump()))
VALUES = ["1", "-1", "0.5", "1e9", ".nan", ".inf", "null", "true", "[]", "{}", "[1, 2]", "{a: 1}"]
VALUES += ["'", "[", "{", "&a 1", "*a", "!!python/name:os.system", "${seed}", "${", "- 1", "a: b"]
VALUES += [
    "2" * 5000,
    "{name: rloo}",
    "{name: quadrant, which: phr}",
    "[[[[1]]]]",
    "\x00",
    "\ud800",
]


def write_config(rng: random.Random, file: Path) -> None:
    changed = vary if rng.random() < 0.3 else spoil
    tree: Any = changed(rng, rng.choice(OWN if rng.random() < 0.2 else WHOLE))
    try:
        text = yaml.dump(tree, allow_unicode=rng.random() < 0.5, Dumper=yaml.CSafeDumper)
    except (RecursionError, yaml.YAMLError):
        text = json.dumps(None)
    content = text.encode(errors="surrogatepass")
    match rng.randrange(16):
        case 0 | 1:
            content = spoil_bytes(rng, content)
        case 2:
            lines = content.splitlines(keepends=True)
            content = b"".join([*lines, rng.choice(lines)])
        case 3:
            content += rng.choice([BOMB, b"seed: &a [*a]\n", b"seed: &b {c: *b}\n", DOUBLING])
        case 4:
            content = b"base: pocket.yaml\n" + content
    file.write_bytes(content)


BOMB = b"a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
)
DOUBLING = b"a0: xxxxxxxxxxxxxxxx\n" + b"".join(
    b"a%d: ${a%d}${a%d}\n" % (n, n - 1, n - 1) for n in range(1, 40)
)


def override(rng: random.Random) -> str:
    key = rng.choice(DOTTED)
    if rng.random() < 0.3:
        key = rng.choice([key.split(".")[0], f"{key}.x", rng.choice(KEYS), f"{key}[0]", f".{key}"])
    given = rng.choice([rng.choice(VALUES), str(rng.choice(NUMBERS)), rng.choice(TEXTS)])
    return rng.choice([f"{key}={given}"] * 20 + [key, given, f"--{key}={given}", f"{key}=="])


@cases("configs")
def test_any_config_is_an_answer_or_a_sentence(count: int, tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    shutil.copy(CONFIG_DIR / "pocket.yaml", tmp_path)

    def case(rng: random.Random) -> str:
        named, overrides, row = "pocket_asym", [], None
        if rng.random() < 0.7:
            write_config(rng, file)
            named = str(file)
        if named == "pocket_asym" or rng.random() < 0.1:
            overrides = [override(rng) for _ in range(rng.choice([1, 1, 2]))]
        if rng.random() < 0.02:
            row = rng.choice(["rloo", "nothing", "", "../pocket", "a\0b", "x" * 300, str(file)])
        config = load_config(named, overrides, row)
        text = dump_config(config)
        file.write_text(text, encoding="utf-8")
        again = load_config(str(file))
        assert dump_config(again) == text, "what a run folder keeps is what the run had"
        memory.describe(config, 0, 0.0)
        memory.describe(config, 2, 80.0)
        return "config"

    counts = fuzz("configs", count, case, [str(tmp_path), "command line", "config", "model.shape"])
    assert counts["refused"] > count / 10 and counts["accepted: config"] > count / 20


# ---- data

ROW = {"id": "p1", "problem": "What is 3 + 4 (mod 13)?", "answer": "7", "level": 2}
PROMPT = {"system": None, "user": "{problem}", "template_kwargs": {}}


def row(rng: random.Random, number: int) -> Any:
    whole = ROW | {"id": rng.choice([f"p{number}"] * 9 + ["p1"])}
    return spoil(rng, whole) if rng.random() < 0.5 else whole


def encoded(rng: random.Random, found: Any) -> bytes:
    line = json.dumps(found, ensure_ascii=rng.random() < 0.3)
    code = rng.choice(["utf-8"] * 20 + ["utf-16", "latin-1", "utf-8-sig", "utf-32"])
    content = line.encode(code, errors="surrogatepass" if "utf" in code else "replace")
    return spoil_bytes(rng, content) if rng.random() < 0.15 else content


@pytest.fixture
def load(tokenizer) -> Iterator[Any]:
    """Loads problems with the pocket tokenizer and a real verifier, now and then the math one."""
    with verifiers.make("exact") as exact, verifiers.make("math", 1, 1.0) as pooled:

        def read(rng: random.Random, file: Path) -> str:
            loader = problems.ProblemLoader(
                tokenizer=tokenizer,
                prompt=PROMPT,
                max_prompt_tokens=rng.choice([64, 64, 10**9]),
                verifier=pooled if rng.random() < 0.02 else exact,
                reject_unparseable=rng.random() < 0.2,
            )
            loaded = loader.load(
                str(file),
                limit=rng.choice([None, None, 1]),
                known=rng.choice([None] * 9 + ["aime24", "olympiadbench"]),
                any_count=True,
            )
            for problem in loaded.problems:
                assert problem.gold.strip() and problem.prompt_ids
                json.dumps([problem.id, problem.gold, problem.prompt_text]).encode()
                assert tokenizer.decode(problem.prompt_ids) == problem.prompt_text
            return file.suffix

        yield read


@cases("rows")
def test_any_rows_are_problems_or_a_sentence(count: int, tmp_path: Path, load) -> None:
    file = tmp_path / "some.jsonl"

    def case(rng: random.Random) -> str:
        lines = [encoded(rng, row(rng, n)) for n in range(rng.randrange(4))]
        file.write_bytes(rng.choice([b"\n"] * 9 + [b"\r\n", b"\n\n"]).join(lines))
        return load(rng, file)

    counts = fuzz("rows", count, case, [str(file)])
    assert counts["refused"] > count / 10 and counts["accepted: .jsonl"] > count / 10


def write_table(rng: random.Random, file: Path) -> None:
    rows = [row(rng, n) for n in range(rng.randrange(4))]
    match file.suffix:
        case ".json":
            content = json.dumps(rows if rng.random() < 0.5 else {"data": rows}).encode()
        case ".csv":
            flat = [found if isinstance(found, dict) else {"a": found} for found in rows]
            lines = [",".join(map(str, flat[0] if flat else ["problem", "answer"]))]
            lines += [",".join(map(str, found.values())) for found in flat]
            content = "\n".join(lines).encode(errors="surrogatepass")
        case _:
            buffer = pyarrow.BufferOutputStream()
            with suppress(pyarrow.ArrowException):  # what Parquet cannot hold
                parquet.write_table(arrow(rng, rows), buffer)
            content = buffer.getvalue().to_pybytes()
    file.write_bytes(spoil_bytes(rng, content) if rng.random() < 0.4 else content)


def arrow(rng: random.Random, rows: list[Any]) -> pyarrow.Table:
    """Each column as it is if its values are of one type, as bytes or as texts otherwise."""
    names = sorted({str(key) for found in rows if isinstance(found, dict) for key in found})
    columns = {}
    for name in names:
        values = [found.get(name) if isinstance(found, dict) else None for found in rows]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, RecursionError):
            columns[name] = pyarrow.array([repr(x)[:90].encode() for x in values])
    return pyarrow.table(columns)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of datasets
@cases("tables")
def test_any_table_is_problems_or_a_sentence(count: int, tmp_path: Path, load, monkeypatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def case(rng: random.Random) -> str:
        file = tmp_path / f"some{rng.choice(['.json', '.csv', '.parquet', '.txt', ''])}"
        write_table(rng, file)
        return load(rng, file)

    counts = fuzz("tables", count, case, [str(tmp_path)])
    assert counts["refused"] > count / 10 and sum(counts.values()) > counts["refused"] * 2


# ---- checkpoints


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


@cases("trainer")
def test_any_trainer_json_and_asymrl_json_is_read_or_refused(count: int, run: Path) -> None:
    folder = run / "checkpoints" / "latest"
    whole = {name: (folder / name).read_bytes() for name in ("trainer.json", "asymrl.json")}

    def case(rng: random.Random) -> str:
        name = rng.choice(list(whole))
        (folder / name).write_bytes(spoil_json(rng, whole[name]))
        if name == "asymrl.json":
            checkpoint.read_definitions(folder)
        else:
            position, parts = checkpoint.load_checkpoint(folder)
            assert position.step >= 0 and position.draws >= 0 and parts[0].updates >= 0
        return name

    counts = fuzz("trainer", count, case, list(whole))
    assert counts["refused"] > count / 2 and counts["accepted: asymrl.json"] > count / 50


def spoil_safetensors(rng: random.Random, content: bytes) -> bytes:
    """Its header or its length spoilt, a tensor renamed, reshaped, retyped, left out or doubled."""
    if rng.random() < 0.3:
        return spoil_bytes(rng, content[: rng.choice([8, 100, len(content)])])
    size = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = rng.choice(sorted(set(header) - {"__metadata__"}))
    match rng.randrange(8):
        case 0:
            header[name]["dtype"] = rng.choice(["F16", "BF16", "I32", "F64", "U8", "F8_E4M3", "X"])
        case 1:
            header[name]["shape"] = rng.choice(
                [[], [1], header[name]["shape"][::-1], [-1], [2**63]]
            )
        case 2:
            header[name]["data_offsets"] = [rng.randrange(9999), rng.randrange(9999)]
        case 3:
            header[name + rng.choice([".x", "/", ""])] = header.pop(name)
        case 4:
            header = {key: entry for key, entry in header.items() if key != name}
        case 5:
            header["weights/extra"] = header[name]
        case 6:
            header = spoil(rng, header)
        case _:
            start, end = header.pop(name)["data_offsets"]
            body = body[:start] + body[end:]
            for entry in header.values():
                if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                    entry["data_offsets"] = [x - end + start for x in entry["data_offsets"]]
    text = json.dumps(header).encode()
    stated = rng.choice([len(text)] * 9 + [0, len(text) - 1, 2**40, 2**64 - 1])
    return struct.pack("<Q", stated) + text + body


@cases("state")
def test_any_trainer_state_is_taken_or_refused(count: int, run: Path) -> None:
    folder = run / "checkpoints" / "latest"
    file = folder / checkpoint.state_file(0, 1)
    whole = file.read_bytes()
    model = pretrained.load_model(ModelConfig(path=str(folder)), torch.float32)
    trained = policy(model)

    def case(rng: random.Random) -> str:
        file.write_bytes(spoil_safetensors(rng, whole) if rng.random() < 0.98 else whole)
        trained.load_state(checkpoint.load_checkpoint(folder)[1])
        return "state"

    assert fuzz("state", count, case, [str(folder), "from another model: "])["refused"] > count / 2


@cases("tokenizer")
def test_any_tokenizer_is_loaded_or_refused(count: int, model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    names = ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"]
    names += ["chat_template.jinja"]
    whole = {name: (folder / name).read_bytes() for name in names}
    (tmp_path / "d.jsonl").write_text(json.dumps(ROW) + "\n")

    def case(rng: random.Random) -> str:
        name = rng.choice(names)
        spoilt = spoil_bytes if name.endswith("jinja") else spoil_json
        (folder / name).write_bytes(spoilt(rng, whole[name]))
        try:
            model = ModelConfig(path=str(folder))
            found = pretrained.load_tokenizer(model)
            stops = pretrained.stop_ids(model, found, ())
            assert stops and all(isinstance(stop, int) for stop in stops)
            problems.render_prompt(found, "What is 1?", **PROMPT)
        finally:
            (folder / name).write_bytes(whole[name])
        return name

    assert fuzz("tokenizer", count, case, [str(folder), "chat template"])["refused"] > count / 4


@cases("model")
def test_any_model_folder_is_loaded_whole_or_refused(
    count: int, model_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    spoils = {"config.json": spoil_json, "model.safetensors": spoil_safetensors}
    whole = {name: (folder / name).read_bytes() for name in spoils}

    def case(rng: random.Random) -> str:
        name = rng.choice(list(whole))
        (folder / name).write_bytes(spoils[name](rng, whole[name]))
        try:
            pretrained.load_model(ModelConfig(path=str(folder)), torch.float32)
        finally:
            (folder / name).write_bytes(whole[name])
        return name

    assert fuzz("model", count, case, [str(folder)])["refused"] > count / 4


@cases("run")
def test_any_run_folder_is_gone_on_with_or_refused(
    count: int, run: Path, config_file: Path, tmp_path: Path
) -> None:
    config = load_config(str(config_file))
    files = ("config.yaml", "metrics.jsonl", "environment.json")
    whole = {name: (run / name).read_bytes() for name in files}
    link = run / "checkpoints" / "latest"
    target = link.readlink()
    aims = ["nowhere", "latest", "..", "/", "/dev/null", str(tmp_path), "step-000001", "x" * 300]

    def case(rng: random.Random) -> str:
        name = rng.choice([*whole, "latest"])
        if name == "latest":
            link.unlink()
            link.symlink_to(rng.choice(aims))
        else:
            spoilt = spoil_json if name == "environment.json" else spoil_bytes
            (run / name).write_bytes(spoilt(rng, whole[name]))
        try:
            found = run_folder.find_checkpoint(run, config, "auto")
            assert found is not None
            checkpoint.starting_point(run, found)
            run_folder.rows_until(run / "metrics.jsonl", rng.randrange(6))
            environment.previous_starts(run / "environment.json")
        finally:
            link.unlink()
            link.symlink_to(target)
            for file, content in whole.items():
                (run / file).write_bytes(content)
        return name

    assert fuzz("run", count, case, [str(run)])["refused"] > count / 4
