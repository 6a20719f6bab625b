"""`--isolated`: workers as another user, without a network, and with this project read-only, as far as the system allows it.

Python that shares a process with its judge cannot be kept from everything; the system can keep a process from the rest of the
machine. This file is a program that each worker is started through (`python -I isolation.py PROJECT READS -- COMMAND ...`): it
gives up what it can, by Linux's own calls, and becomes COMMAND. Without a command it says, as JSON, what it could not give up,
and why. It needs nothing beyond Python.

user      nobody: where it is started by root, and that user can read what READS names (Python, its packages, the solutions)
network   a namespace without any: where root may make one (not in most containers), or users may have namespaces of their own
project   read-only: by a mount of its own where it has such a namespace, or because the other user may not write it
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

NOBODY = 65534
NEW_MOUNTS, NEW_USERS, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000  # flags of unshare(2)
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE, RELATIVE_TIMES = 1, 32, 4096, 16384, 1 << 18, 1 << 21  # flags of mount(2)
DROP_CAPABILITY, NO_NEW_PRIVILEGES = 24, 38  # of prctl(2)
PARTS = {"user": "another user", "network": "no network", "project": "a read-only project"}


def isolate(project: str, reads: Iterable[str]) -> dict[str, str]:
    """Gives up what this process can. Gives back for each of PARTS why it could not, "" where it could."""
    if sys.platform != "linux":
        return dict.fromkeys(PARTS, f"{sys.platform} has no namespaces: use Linux, or a container")
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    found = dict.fromkeys(PARTS, "")

    def called(result: int, what: str) -> str:
        return "" if result == 0 else f"{what}: {os.strerror(ctypes.get_errno())}"

    why = called(libc.unshare(NEW_NETWORK | NEW_MOUNTS), "unshare")
    if why and user != 0 and not (why := called(libc.unshare(NEW_USERS | NEW_NETWORK | NEW_MOUNTS), "unshare")):
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        except OSError as error:
            why = f"user namespace: {error.strerror}"
    found["network"] = why
    if not why:
        place = os.fsencode(project)
        kept = os.statvfs(project).f_flag & (2 | 4 | 8 | 1024 | 2048) | RELATIVE_TIMES
        why = (
            called(libc.mount(None, b"/", None, RECURSIVE | PRIVATE, None), "mount")
            or called(libc.mount(place, place, None, BIND | RECURSIVE, None), "mount")
            or called(libc.mount(None, place, None, BIND | REMOUNT | READ_ONLY | kept, None), "mount")
        )
        if not why:
            os.chdir(os.getcwd())  # the folder is now that of the mount
    found["user"] = _become_nobody(project, reads) if user == 0 else "it is not root who starts it"
    if found["user"] and user == 0:  # root still, but one that may no longer mount, or read what is not root's
        for capability in range(64):
            libc.prctl(DROP_CAPABILITY, capability, 0, 0, 0)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    inside = [project, *(os.path.join(project, one) for one in ("vp", "tests", "tests/conformance"))]
    if writable := [one for one in inside if os.access(one, os.W_OK)]:
        found["project"] = why or f"{writable[0]} can be written by all"
    return found


def _become_nobody(project: str, reads: Iterable[str]) -> str:
    try:
        if child := os.fork():  # tried by another process first: there is no way back
            _, status = os.waitpid(child, 0)
            if status:
                return f"nobody may not read {[*reads, project][os.waitstatus_to_exitcode(status) - 1]}"
        else:
            _drop()
            unreadable = [nth for nth, one in enumerate([*reads, project], 1) if not os.access(one, os.R_OK)]
            os._exit(unreadable[0] if unreadable else 0)
        _drop()
    except OSError as error:
        return f"setuid: {error.strerror}"
    return ""


def _drop() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


# -- on the side of those who start workers ------------------------------------------------------------------------------------


def command(project: Path, reads: Iterable[Path], *rest: str) -> list[str]:
    """The command line that is isolated, or, without a command, tells what would be."""
    paths = [str(Path(one).resolve()) for one in reads]
    return [sys.executable, "-I", __file__, str(project), os.pathsep.join(paths), *(["--", *rest] if rest else [])]


def not_isolated(project: Path, reads: Iterable[Path]) -> dict[str, str]:
    """For each of PARTS, tried by a process of its own: why it cannot be, "" where it can."""
    done = subprocess.run(command(project, reads), capture_output=True, text=True, check=False)
    if done.returncode:
        return dict.fromkeys(PARTS, (done.stderr.strip().rpartition("\n")[2] or f"it ended with {done.returncode}"))
    found: dict[str, str] = json.loads(done.stdout)
    return found


def needed(solutions: Iterable[Path]) -> list[Path]:
    """What a worker reads: Python, its packages, and the solutions."""
    import pytest
    import torch

    return [Path(sys.executable), Path(os.__file__), Path(pytest.__file__), Path(torch.__file__), *solutions]


def in_words(found: dict[str, str]) -> str:
    """What is isolated and what is not, in a line."""
    kept = [PARTS[part] for part, why in found.items() if not why]
    lost = [f"{PARTS[part]} ({why})" for part, why in found.items() if why]
    return "; ".join([*([f"isolated: {', '.join(kept)}"] if kept else []), *([f"NOT isolated: {', '.join(lost)}"] if lost else [])])


def worker_spec(project: Path, reads: Iterable[Path]) -> str:
    """How execnet starts an isolated worker."""
    return f"popen//execmodel=main_thread_only//python={shlex.join(command(project, reads, sys.executable))}"


def main(arguments: list[str]) -> None:
    project, reads, *rest = arguments
    found = isolate(project, [one for one in reads.split(os.pathsep) if one])
    if not rest:
        print(json.dumps(found))
        return
    os.environ["HOME"] = os.environ.get("TMPDIR", "/tmp") if not found["user"] else os.environ.get("HOME", "/")
    os.execvp(rest[1], rest[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
