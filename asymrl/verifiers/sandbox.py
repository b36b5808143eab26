"""A fence around code that reads text a model wrote: it can run no code and reach nothing.

Knows Python's audit events. The grammar hands text to no evaluator; should a library that it calls
come to, the evaluating is refused and the answer costs itself.
Imports that a library puts off until it needs them still work.
"""

import sys
from types import FrameType
from typing import Any

REFUSED = frozenset(
    {
        "exec", "compile", "open", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
        "os.forkpty", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink",
        "os.truncate", "os.chmod", "os.listdir", "os.scandir", "os.startfile", "subprocess.Popen",
        "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen",
        "shutil.rmtree", "shutil.move", "shutil.copyfile", "pickle.find_class", "webbrowser.open",
        "os.kill", "os.killpg", "os.chdir", "os.chown", "os.utime", "os.putenv", "os.unsetenv",
        "socket.sendto", "ctypes.dlsym", "marshal.loads", "code.__new__", "sqlite3.connect",
    }
)  # fmt: skip


class Refused(Exception):
    """Something tried to run code, or to reach a file, a process or the network."""


def install_sandbox() -> None:
    """Refuses such events in this process from now on; there is no way back."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in REFUSED and not _importing(sys._getframe(1)):
        raise Refused(f"{event} is not allowed in a verifier")


def _importing(frame: FrameType | None) -> bool:
    """Whether a library is being imported, which compiles, executes and opens what is its own."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
