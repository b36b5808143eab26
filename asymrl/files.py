"""Files: atomic writes, JSON and JSONL readers that name the bad line, folder locks.

Everything on the disk goes through here. Knows nothing of what the files mean.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from asymrl.errors import UserError, one_line, printable

# errno values of a full, failing or read-only disk, and of missing permissions
UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ESTALE),
)


@contextmanager
def locked(folder: Path, *, refused: str, busy: str) -> Iterator[None]:
    """Create the folder if needed and lock it; the system releases the lock if the process dies.

    UserError: `refused` plus the system's reason if the folder cannot be created or written,
    `busy` if another process holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", blocking=False, fallback_to_soft=False).acquire()
    except Timeout:
        raise UserError(busy) from None
    except OSError as error:
        raise UserError(f"{refused}: {error.strerror}") from None
    with lock:
        yield


LOGS = (".log", ".out", ".err")


def check_unused(folder: Path, flag: str, own: Callable[[Path], bool] = lambda _: False) -> None:
    """UserError if a folder for new files is a file, or holds anything but hidden files, logs, what
    a hung process reported, and files that are the program's `own`. flag: of the folder."""
    if not os.path.lexists(folder):  # unlike Path.exists it accepts names that no file can have
        return
    if not folder.is_dir():
        raise UserError(f"{flag} {folder} is a file; use a new or an empty folder")
    other = sorted(
        path.name
        for path in folder.iterdir()
        if not (path.name[0] == "." or path.suffix in LOGS or path.match("stuck-rank-*.txt"))
        and not own(path)
    )
    if other:
        names = ", ".join(other[:3]) + ", ..." * (len(other) > 3)
        raise UserError(
            f"{flag} {folder} already holds other files ({names}); use a new or an empty folder"
        )


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write the whole file or leave the old one unchanged, even if the process is killed."""
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
    """Flush a file, or the list of names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder and everything in it to disk, so that a later rename cannot come first."""
    for path in [*folder.rglob("*"), folder]:
        sync_to_disk(path)


def relative_files(folder: Path) -> list[str]:
    """Paths of all files in a folder and its subfolders, relative to the folder, sorted."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Folder names, printable. Equal names are extended by parent folders until all differ."""
    depth = [1] * len(folders)
    while True:
        names = ["/".join(f.parts[-d:]) for f, d in zip(folders, depth, strict=True)]
        clashing = [
            i
            for i, folder in enumerate(folders)
            if names.count(names[i]) > 1 and depth[i] < len(folder.parts)
        ]
        if not clashing:
            return [printable(name) for name in names]
        for i in clashing:
            depth[i] += 1


def file_digest(file: Path) -> str:
    """128-bit BLAKE2b of the content: about one second per GB on the machine of docs/log.md."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def short_name(source: str) -> str:
    """The name of a data source in metrics and file names: that of a file or a hub data set without
    its folder or organisation, and without the suffix of a table."""
    path = Path(source)
    return path.stem if path.suffix in TABLE_SUFFIXES else path.name


MAX_JSON_DEPTH = 100  # levels of lists and objects in a JSON text
MAX_JSON_BYTES = 2**30  # of a JSON file, or of one line of a JSONL file


def parse_object(text: str | bytes, where: str, kind: type[Any] = dict) -> Any:
    """The JSON object in `text`, or the JSON array if `kind` is list.

    UserError, which starts with `where`, for anything else, and for deep nesting or huge texts,
    which json.loads accepts and later code cannot handle.
    """
    if len(text) > MAX_JSON_BYTES:
        raise UserError(f"{where}: the JSON text is longer than {MAX_JSON_BYTES:,} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a too long number
        raise UserError(f"{where}: not valid JSON: {one_line(error)}") from None
    if not isinstance(value, kind):
        names = {dict: "object", list: "array"}
        raise UserError(f"{where}: expected a JSON {names[kind]}, got {type(value).__name__}")
    if _is_deeper(value, MAX_JSON_DEPTH):
        raise UserError(f"{where}: the JSON is nested more than {MAX_JSON_DEPTH} levels deep")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    """True if `value` has more than `levels` levels of lists and objects."""
    if levels == 0:
        return isinstance(value, dict | list)
    members = value.values() if isinstance(value, dict) else value
    nested = [member for member in members if isinstance(member, dict | list)]
    return any(_is_deeper(member, levels - 1) for member in nested)


def read_json(file: Path, kind: type[Any] = dict) -> Any:
    """The object in a JSON file, or its array if `kind` is list.

    UserError names the file if it is missing, unreadable or holds anything else.
    """
    return parse_object(_read_bytes(file), str(file), kind)


def read_jsonl(file: Path, *, drop_partial: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE:LINE", object) for every line that is not blank. UserError names file and line.

    drop_partial: skip a last line that a killed process left without a newline and incomplete.
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
