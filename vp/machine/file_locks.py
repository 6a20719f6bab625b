"""Whether file locks can be had in a folder: some network file systems refuse them, and what is done then is said once."""

from __future__ import annotations

import errno
import tempfile
import warnings
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, whose locks are not flock's
    fcntl = None  # type: ignore[assignment]

# What a file system answers that has no locks, or no hard links.
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EMLINK}


class NoLocksWarning(UserWarning):
    """The file system of a folder has no locks: several processes may do the same work there, and their results are compared."""


def locks_work(folder: Path) -> bool:
    """Does the file system of `folder` give locks? Raises OSError where the folder cannot be written.

    A yes holds for this machine. Whether the lock is seen on other nodes, the file system does not tell.
    """
    if fcntl is None:
        return True
    with tempfile.TemporaryFile(dir=folder) as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return False
            raise
    return True


@cache
def say_there_are_no_locks(folder: Path) -> None:
    """Warn once for each folder."""
    warnings.warn(
        f"{folder} is on a file system without file locks: processes that want the same run may each train it; their results "
        "are compared, and one is kept",
        NoLocksWarning,
        stacklevel=2,
    )
