"""Makes a model folder once: complete or not there, and by one process at a time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers.utils import logging as transformers_logging

from asymrl.errors import UserError
from asymrl.files import read_json, relative_files, write_atomically

RECORD = "made_from.json"  # the file that says what a folder was made from; written last


def make_once(
    folder: Path,
    made_from: Mapping[str, Any],
    write: Callable[[Path], Mapping[str, Any]],
    *,
    force: bool = False,
) -> Path:
    """Create `folder` unless it exists with the same `made_from`; return it.

    made_from: JSON values that determine the content. write fills a temporary folder, which is then
    renamed, and returns what else to record, such as measurements. Other processes wait and use the
    result. UserError if `folder` holds something else or cannot be written.
    """
    if not force and _is_complete(folder, made_from):
        return folder  # without the lock, so that a read-only folder can be used
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not force and _is_complete(folder, made_from):
                return folder
            recorded = _record_of(folder)
            if recorded is None and folder.exists() and not _is_empty(folder):
                raise UserError(f"{folder} exists, but AsymRL did not create it: move or delete it")
            for leftover in folder.parent.glob(f".{folder.name}.partial-*"):
                shutil.rmtree(leftover)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
            try:
                new, old = partial / "new", partial / "old"
                new.mkdir()
                extra = write(new)
                sizes = {name: (new / name).stat().st_size for name in relative_files(new)}
                record = {**made_from, **extra, "files": sizes}
                write_atomically(new / RECORD, json.dumps(record, indent=2) + "\n")
                if folder.exists():
                    os.rename(folder, old)
                os.rename(new, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error
    return folder


def _is_complete(folder: Path, made_from: Mapping[str, Any]) -> bool:
    """Whether the folder was made from the same and has its files, each of its size."""
    recorded = _record_of(folder)
    if recorded is None or not made_from.items() <= recorded.items():
        return False
    sizes = recorded.get("files", {}).items()
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == n for name, n in sizes
    )


def _record_of(folder: Path) -> dict[str, Any] | None:
    """What a folder was made from; None if it has no such record."""
    try:
        return read_json(folder / RECORD)
    except UserError:
        return None


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Disable the progress bars of transformers."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
