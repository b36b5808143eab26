"""A sandbox for code that reads text written by a model: blocks Python's audit events.

The parser of `math` passes text to no evaluator. If a library that it calls did, the sandbox raises
Blocked and that one answer crashes. Imports that a library defers until it needs them still work.
"""

import sys
from collections.abc import Set
from types import FrameType
from typing import Any

CODE_EVENTS = frozenset({"exec", "compile", "code.__new__", "marshal.loads"})
SYSTEM_EVENTS = frozenset(
    {
        "open", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
        "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
        "os.chmod", "os.listdir", "os.scandir", "os.startfile", "subprocess.Popen",
        "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen",
        "shutil.rmtree", "shutil.move", "shutil.copyfile", "pickle.find_class", "webbrowser.open",
        "os.kill", "os.killpg", "os.chdir", "os.chown", "os.utime", "os.putenv", "os.unsetenv",
        "socket.sendto", "ctypes.dlsym", "sqlite3.connect",
    }
)  # fmt: skip


class Blocked(Exception):
    """Code tried to do something that the sandbox does not allow."""


def install_sandbox(events: Set[str]) -> None:
    """Blocks these audit events in this process until it ends; cannot be undone."""

    def block(event: str, arguments: tuple[Any, ...]) -> None:
        if event in events and not _is_importing(sys._getframe(1)):
            raise Blocked(f"{event} is not allowed in a verifier")

    sys.addaudithook(block)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether an import is running, which compiles, executes and opens the library's own files."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
