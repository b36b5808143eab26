"""Files: written whole or not at all, JSON and JSONL read with one guard, folders locked."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asymrl.errors import UserError, one_line

# what a full, broken or read-only disk says
UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ESTALE),
)


@contextmanager
def locked(folder: Path, *, refused: str, busy: str) -> Iterator[None]:
    """The folder, made if need be, and ours alone; the system lets go of it when we die.

    UserError: `refused` with the system's reason where it cannot be made, `busy` where another
    process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{refused}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        yield


def write_atomically(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """All in a folder and its entries, so that a later rename cannot overtake them."""
    for path in [*folder.rglob("*"), folder]:
        sync_to_disk(path)


def relative_files(folder: Path) -> list[str]:
    """The files of a folder and of those in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def digest(file: Path) -> str:
    """BLAKE2b of its content, 128 bits: about a second a GB on the machine of docs/log.md."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


MAX_DEPTH = 100  # levels of lists and objects in a JSON text
MAX_BYTES = 2**30  # of a JSON file, or of one line of a JSONL file


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`. UserError, which starts with `where`, if it is anything else.

    Guards against what json.loads accepts and later code cannot handle: deep nesting, huge texts.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{where}: the JSON text is longer than {MAX_BYTES:,} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a too long number
        raise UserError(f"{where}: not valid JSON: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(value).__name__}")
    openings = ("{", "[") if isinstance(text, str) else (b"{", b"[")
    if sum(map(text.count, openings)) > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):  # pyright: ignore[reportArgumentType, reportCallIssue]
        raise UserError(f"{where}: the JSON is nested more than {MAX_DEPTH} levels deep")
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        dicts = [one for one in level if isinstance(one, dict)]
        lists = [one for one in level if isinstance(one, list)]
        level = [x for one in dicts for x in one.values()] + [x for one in lists for x in one]
    return bool(level)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. UserError names the file if it is missing, unreadable or not a
    JSON object."""
    return parse_object(_read_bytes(file), str(file))


def read_jsonl(file: Path, *, drop_partial: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE:LINE", object) for every line that is not blank. UserError names file and line.

    drop_partial: skip a last line that a killed process left unfinished (no newline, not JSON).
    """
    lines = _read_bytes(file).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = parse_object(line, where)
        except UserError:
            if drop_partial and number == len(lines):
                return
            raise
        yield where, row


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(f"{file} cannot be read: {one_line(error)}") from None
