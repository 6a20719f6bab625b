"""Files from the network: with progress and a checksum, and going on where an interrupted download stopped."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

from vp.machine.errors import VpError
from vp.machine.home import home

CHUNK = 2**20
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class DownloadFailed(VpError):
    """The network, the server or the disk did not give a whole file."""


def weights_folder() -> Path:
    """Where downloaded weights live: `weights` in VP_HOME."""
    return home() / "weights"


def offline_because() -> str | None:
    """The variable by which the user has ruled out downloads, if any; the hubs' libraries read the same ones."""
    return next((name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), None)


def matches(path: Path, checksum: str) -> bool:
    """Is `path` a file of that checksum? `ALGORITHM:HEX`, where HEX may be the beginning of the digest alone."""
    algorithm, _, expected = checksum.partition(":")
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest().startswith(expected)


def check_space(folder: Path, size: int, what: str) -> None:
    """Raises DownloadFailed when `size` more bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DownloadFailed(
            f"no space for {what} in {folder}: it needs {size / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free; free some or set "
            "VP_HOME to another disk"
        )


def check_network(url: str) -> None:
    """Raises DownloadFailed at once where no server answers there, for libraries that would try again and again."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=20).close()
    except HTTPError as error:
        error.close()  # it answers
    except OSError as error:
        raise _no_network(url, error) from error


def _no_network(url: str, error: Exception) -> DownloadFailed:
    reason = getattr(error, "reason", None) or error
    return DownloadFailed(
        f"no network to {url} ({reason}): start again to go on, or copy {home()} from a machine that has fetched it"
    )


def download(url: str, path: Path, checksum: str, *, progress: bool = True) -> None:
    """Bring `url` to `path`: complete and of that checksum, or not at all.

    What has come so far stays in `path`.part, and the next call asks the server for the rest. A file already there is kept if
    its checksum is right and fetched again if it is not. Raises DownloadFailed for whatever goes wrong on the way.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(part.with_suffix(".lock")):
            if matches(path, checksum):
                return
            _receive(url, part, progress)
            if not matches(part, checksum):
                part.unlink()
                raise DownloadFailed(
                    f"{url} arrived with another checksum than {checksum}, so it was thrown away: start again, and if that goes "
                    "on, something between here and the server alters it"
                )
            os.replace(part, path)
    except HTTPError as error:
        error.close()
        raise DownloadFailed(f"{url} answers {error.code} {error.reason}: try again later") from error
    except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _no_network(url, error) from error
    except OSError as error:
        raise DownloadFailed(
            f"cannot write {part} ({error.strerror or error}): free space or set VP_HOME to a folder you can write"
        ) from error


def _receive(url: str, part: Path, progress: bool) -> None:
    """Append to `part` what it lacks of `url`; from its beginning where the server cannot go on in the middle."""
    have = part.stat().st_size if part.exists() else 0
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=60)
    except HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        error.close()
        return  # nothing is lacking, or the part is of another file, as its checksum will tell
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0
        coming = int(response.headers.get("Content-Length") or 0)
        check_space(part.parent, coming, url)
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                desc=part.stem,
                initial=have,
                total=have + coming or None,
                unit="B",
                unit_scale=True,
                disable=None if progress else True,
            ) as bar,
        ):
            while block := response.read(CHUNK):
                file.write(block)
                bar.update(len(block))
    if coming and part.stat().st_size < have + coming:
        raise DownloadFailed(f"{url} broke off at {part.stat().st_size} of {have + coming} bytes: start again to go on there")
