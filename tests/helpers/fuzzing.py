"""Seeded spoiling of configs, data rows and checkpoints, and what must hold of every case.

Case i of a part depends on (ASYMRL_FUZZ_SEED, part, i) alone, so a failure names all that it takes
to see it again. Knows values and bytes; nothing of what reads them.
"""

import copy
import json
import os
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from asymrl.errors import UserError

SEED = os.environ.get("ASYMRL_FUZZ_SEED", "7")
HANG_SECONDS = 60  # of processor time, so that a busy machine is no hang
MEMORY_BYTES = 3 << 30  # more than the process has when the cases begin
LONGEST = 400  # characters of a sentence

NUMBERS = [0, 1, 2, 3, -1, 7, 64, 0.5, -0.5, 1e-9, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**30]
NUMBERS += [float("nan"), float("inf"), float("-inf"), 5e-324, -0.0, 10**400]
TEXTS = ["", " ", "a", "pocket", "auto", "off", "none", "asym", "grpo", "true", "null", "~", "1"]
TEXTS += ["1e5", "nan", "-", "???", "{problem}", "${seed}", "${nowhere}", "${oc.env:HOME}", "${"]
TEXTS += ["${..seed}", "\\${seed}", "${seed}${steps}", "a\nb", "a\tb", "\x1b[31mred", "\u202eabc"]
TEXTS += ["é", "数学", "\U0001f600", "e\u0301", "\ufeff", "\x85", "\u2028", "a\0b", "x" * 5000]
TEXTS += ["../../etc/passwd", "/dev/null", "{{ 7 * 7 }}", "{% for %}", "<script>", "'", '"', "\\"]
TEXTS += ["\\boxed{1}", "\\frac{1}{2}", "2024-01-01", "0x1F", "0b1", "1_000", "12:30:45", "=", "<<"]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"": 1}, {"name": "asym"}]
OTHERS += [[1, "a", None], {"a": {"b": {"c": [1]}}}, [0.9, 0.95], [0.9, 2], ["a"] * 300]
KEYS = ["", "name", "nmae", "steps", "base", "a.b", "a b", "1", "é", "__class__", "model_config"]
KEYS += ["METHODS", "example", "params", "x" * 300, "${seed}", "<<", "self", "id", "problem"]
RAW = [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"[" * 3000, b"{" * 3000, b"- " * 500]
RAW += [b"\n", b"\r", b"\t", b": ", b"#", b"&a ", b"*a", b"*b", b"!!python/object:os.system {}"]
RAW += [
    b"!!binary aGk=",
    b"!!set {a}",
    b"!!timestamp 9999-99-99",
    b"%YAML 9.9\n",
    b"--- ",
    b"...\n",
]
RAW += [b"? ", b"| ", b"> ", b"'", b'"', b"\\u0000", b"\\ud800", b"1" * 6000, b"1e99999", b"NaN"]
RAW += [b"Infinity", b"null", b"[]", b"{}", b'"a"', b"\xed\xa0\x80", b"<<: *a\n", b"&a [*a]"]


def scalar(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(NUMBERS)
    if kind < 0.4:
        return rng.randint(-100, 5000)
    if kind < 0.75:
        return rng.choice(TEXTS)
    if kind < 0.85:
        return "".join(chr(rng.randrange(1, 0x500)) for _ in range(rng.randrange(12)))
    return copy.deepcopy(rng.choice(OTHERS))


def anything(rng: random.Random, depth: int = 0) -> Any:
    """A value of any type, at times nested, rarely deep or very long."""
    if depth > 3 or rng.random() < 0.8:
        return scalar(rng)
    if rng.random() < 0.02:
        return nested(rng.choice([50, 200]), list_=rng.random() < 0.5)
    if rng.random() < 0.5:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): anything(rng, depth + 1) for _ in range(rng.randrange(4))}


def nested(depth: int, *, list_: bool) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner] if list_ else {"a": inner}
    return inner


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree of dicts and lists."""
    found, ahead = [], [tree]
    while ahead:
        node = ahead.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], dict | list):
                ahead.append(node[key])
    return found


def spoil(rng: random.Random, tree: Any) -> Any:
    """A copy with one to three things changed, renamed, left out, added or swapped."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        there = places(tree)
        if not there or rng.random() < 0.02:
            return anything(rng)
        node, key = rng.choice(there)
        match rng.randrange(6):
            case 0 | 1 | 2:
                node[key] = anything(rng)
            case 3:
                del node[key]
            case 4 if isinstance(node, dict):
                node[rng.choice(KEYS)] = anything(rng) if rng.random() < 0.5 else node.pop(key)
            case _:
                other, place = rng.choice(there)
                if not isinstance(other[place], dict | list):  # no cycles here
                    node[key] = other[place]
    return tree


def vary(rng: random.Random, tree: Any) -> Any:
    """A copy with other numbers where it has numbers: most of them are good ones."""
    tree = copy.deepcopy(tree)
    numbers = [(node, key) for node, key in places(tree) if type(node[key]) in (int, float)]
    for node, key in rng.sample(numbers, min(len(numbers), 3)):
        node[key] = type(node[key])(node[key] * rng.choice([0, 0.5, 1, 2, 8, 1000, 1e9]))
    return tree


def spoil_bytes(rng: random.Random, content: bytes) -> bytes:
    """Cut, doubled, overwritten, or with something put into it."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        size = len(content)
        start, end = sorted(rng.randrange(size + 1) for _ in range(2))
        end = min(end, start + rng.choice([1, 8, 80, size]))
        match rng.randrange(6):
            case 0:
                content = content[:start]
            case 1:
                content = content[:start] + content[end:]
            case 2:
                content = content[:end] + content[start:]
            case 3:
                content = content[:start] + rng.choice(RAW) + content[start:]
            case 4:
                content = content[:start] + rng.choice(RAW) + content[end:]
            case _:
                content = content[:start] + rng.randbytes(end - start) + content[end:]
    return content


def spoil_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON file with a spoilt value, or spoilt itself."""
    if rng.random() < 0.3:
        return spoil_bytes(rng, content)
    return json.dumps(spoil(rng, json.loads(content)), ensure_ascii=rng.random() < 0.5).encode(
        errors="surrogatepass"
    )


class Hang(BaseException):
    """A case took longer than HANG_SECONDS; no handler of the package may swallow it."""


def hang(signum: int, frame: FrameType | None) -> None:
    raise Hang


@contextmanager
def bounded() -> Iterator[None]:
    """A limit of memory for all cases, and a signal for a hanging one; both as before after it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = signal.signal(signal.SIGVTALRM, hang)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fuzz(
    part: str, count: int, case: Callable[[random.Random], str], named: Sequence[str]
) -> Counter[str]:
    """Runs `count` cases. case(rng) -> what was accepted. named: the file, or other words of which
    a refusal must hold one, so that its reader knows where to look.

    Returns how many were accepted, by that, and refused, by who refused. Fails with the first
    cases that broke the promise, one of a kind.
    """
    counts: Counter[str] = Counter()
    broken: dict[str, str] = {}
    began = time.process_time()
    with bounded():
        for index in range(count):
            signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
            rng = random.Random(f"{SEED}/{part}/{index}")
            try:
                counts[f"accepted: {case(rng)}"] += 1
            except UserError as error:
                sentence = str(error)
                if "\n" in sentence or len(sentence) > LONGEST or not sentence.isprintable():
                    broken.setdefault("not one short sentence", f"case {index}: {sentence!r}")
                if not any(name in sentence for name in named):
                    broken.setdefault("names no file and no key", f"case {index}: {sentence!r}")
                counts["refused"] += 1
                counts[f"refused by {place(error)}"] += 1
            except (Exception, Hang) as error:
                where = place(error)
                kind = f"{type(error).__name__} in {where}"
                told = "".join(traceback.format_exception(error)[-6:])
                broken.setdefault(kind, f"case {index}: {told[-2500:]}")
    counts["cpu seconds"] = round(time.process_time() - began)
    print(f"\n{part}: {count} cases, seed {SEED}")
    for name, number in sorted(counts.items()):
        print(f"  {number:>7} {name}")
    assert not broken, f"{part}, seed {SEED}:\n" + "\n".join(
        f"== {kind}\n{told}" for kind, told in list(broken.items())[:20]
    )
    return counts


def place(error: BaseException) -> str:
    """The last function of the package that the error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/asymrl/" in f.filename] or frames[-1:]
    return f"{own[-1].filename.rpartition('/')[2]}:{own[-1].name}"
