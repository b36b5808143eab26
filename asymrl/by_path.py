"""Functions of the user's own, by path: `path/to/file.py:function`.

Runs the file once, without a sandbox, as `python file.py` would: modules beside it can be imported.
A relative path is relative to the working directory. A name may end with the digest of the file,
`file.py:function@0123456789abcdef`, as config.yaml and checkpoints store it; the file must then
have the same content. Knows nothing of what the functions are for.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeGuard

from asymrl.errors import UserError, one_line, short_repr
from asymrl.types import frozen

FORM = "path/to/file.py:function"
NAME = re.compile(r"(.+\.py):([A-Za-z_]\w*)(?:@([0-9a-f]{16}))?", re.DOTALL)


@frozen
class OwnFunction:
    """A loaded function. name: with the digest of its file. path: as the user gave it."""

    name: str
    path: str
    call: Callable[..., Any]
    signature: inspect.Signature


def is_by_path(name: Any) -> TypeGuard[str]:
    """Whether a name means a file: it contains `.py` or a slash, as no built-in name does."""
    return isinstance(name, str) and (".py" in name or "/" in name)


def without_digest(name: str) -> str:
    return re.sub("@[0-9a-f]{16}$", "", name)


def load(name: str) -> OwnFunction:
    """The function that `name` means. UserError says what is wrong with the name or the file."""
    parts = NAME.fullmatch(name)
    if parts is None:
        path = name.partition(":")[0]
        has = f"; {path} has {functions_of(path)}" if path.endswith(".py") else ""
        raise UserError(f"{short_repr(name)} must have the form {FORM}{has}")
    path, function, digest = parts.groups()
    source = read(path)
    current = hashlib.blake2b(source, digest_size=8).hexdigest()
    if digest not in (None, current):
        raise UserError(
            f"{path} has changed: its digest is {current}, the recorded one is {digest}; restore "
            "the file, or start a new run in another --output-dir"
        )
    module = run(os.path.abspath(path), source)
    call = getattr(module, function, None)
    if not callable(call):
        nearest = difflib.get_close_matches(function, names_in(module), n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise UserError(f"{path} has no function {function}; {hint}it has {functions_of(path)}")
    with blamed(path):
        signature = inspect.signature(call, eval_str=True)
    return OwnFunction(
        name=f"{path}:{function}@{current}", path=path, call=call, signature=signature
    )


def read(path: str) -> bytes:
    """The content of a file. UserError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        where = "" if os.path.isabs(path) else f" in the working directory, {os.getcwd()}"
        raise UserError(f"{path} does not exist{where}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None


@cache
def run(path: str, source: bytes) -> ModuleType:
    """The module of a file, run once for each content. UserError names the line that failed."""

    class Source(SourceLoader):  # without a cache of bytecode, which an edit can leave stale
        def get_data(self, path: str) -> bytes:
            return source

        def get_filename(self, fullname: str) -> str:
            return path

    digest = hashlib.blake2b(source, digest_size=8).hexdigest()
    spec = spec_from_loader(f"asymrl_own_{Path(path).stem}_{digest}", Source())
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    if (folder := os.path.dirname(path)) not in sys.path:
        sys.path.append(folder)
    with blamed(path):
        spec.loader.exec_module(module)
    return module


@contextmanager
def blamed(path: str) -> Iterator[None]:
    """Turn an exception of the user's code into a UserError with its line in the file."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = [str(frame.lineno) for frame in frames_in(path, error)]
        if isinstance(error, SyntaxError):
            lines = [str(error.lineno)]
        where = f"{path}, line {lines[-1]}" if lines else path
        message = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(f"{where}: {type(error).__name__}: {one_line(message)}") from error


def frames_in(path: str, error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an exception that are in the file, outermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if frame.filename == os.path.abspath(path)]


def traceback_from(path: str, error: BaseException) -> str:
    """The traceback of an exception, from its first frame in the file."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename != os.path.abspath(path):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def names_in(module: ModuleType) -> list[str]:
    """The public functions that a module defines."""
    members = vars(module).items()
    return [
        name
        for name, member in members
        if isinstance(member, FunctionType)
        and member.__module__ == module.__name__
        and not name.startswith("_")
    ]


def functions_of(path: str) -> str:
    """The functions of a file, for a sentence."""
    return ", ".join(names_in(run(os.path.abspath(path), read(path)))) or "no functions"
