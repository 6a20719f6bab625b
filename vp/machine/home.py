"""The folder of downloads, results and locks, and what the environment says of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vp.machine.errors import VpError

STORE = "VP_STORE"


def home() -> Path:
    """The folder of downloads, results and locks: `VP_HOME`, or `vp` in the user's cache folder."""
    if given := os.environ.get("VP_HOME"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vp"


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns an OSError in the context, a failed write below VP_HOME or VP_STORE, into a VpError with the reason and the cure."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise VpError(
            f"cannot write to {folder} ({reason}): free space or set {variable_of(folder)} to a folder you can write"
        ) from error


def given_store() -> str:
    """What `VP_STORE` says: a folder or the address of a bucket; empty where it is not set."""
    return os.environ.get(STORE, "").strip()


def variable_of(path: Path) -> str:
    """Which variable moves `path` elsewhere: VP_STORE for what is below its folder, VP_HOME for all else."""
    given = given_store()
    return STORE if given and "://" not in given and path.is_relative_to(Path(given).expanduser()) else "VP_HOME"


def given_bytes(variable: str, otherwise: float) -> float:
    """An environment variable in GiB, as bytes; `otherwise` where it is not set. Raises VpError for no number of at least 0."""
    given = os.environ.get(variable)
    if given is None:
        return otherwise
    try:
        gib = float(given)
    except ValueError:
        gib = -1.0
    if not gib >= 0:
        raise VpError(f"{variable} is {given!r}: give a number of GiB of at least 0")
    return gib * 2**30
