"""Where artifacts are kept under names: in a folder, or in a bucket that many nodes reach.

`put` is the one way to write. It is conditional: what stands under a name stays, and whoever comes second is told. In a folder
that is a hard link; in a bucket the header If-None-Match (S3, Azure) or ifGenerationMatch (Google). An artifact is there as a
whole or not at all, whenever its writer dies.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from vp.machine import artifacts
from vp.machine.errors import VpError
from vp.machine.file_locks import UNSUPPORTED, locks_work
from vp.machine.home import STORE, home, variable_of, writing_to

BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")  # fsspec's, whose writes can be conditional
WRITES_OF_S3 = ("s3", "s3a")  # may also be conditional on what is to be replaced
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
HEAD_BYTES = 16 * 1024  # of a file, in which most notes end
AT_ONCE = 1000  # notes that are asked of a bucket together

Content = tuple[dict[str, Tensor], dict[str, Any]]


class Version(NamedTuple):
    """What stands under a name: since when, in seconds since the epoch by the store's clock, and a tag that changes with it."""

    since: float
    tag: str


class Shelf(Protocol):
    """A place of artifacts by name. All but `names` raise VpError where the place cannot be read or written."""

    locks: Path  # the folder of the file locks by which the processes of a machine take turns

    def where(self, name: str) -> str:
        """The whole path or address, for people."""

    def look(self, names: Sequence[str]) -> dict[str, Version]:
        """Those of `names` that are there."""

    def load(self, name: str) -> Content:
        """Tensors and note. Raises FileNotFoundError, or CorruptArtifact."""

    def put(self, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any], over: Version | None = None) -> bool:
        """Write, unless something else than the version `over` stands there; whether it was written."""

    def set_aside(self, name: str) -> str:
        """Keep what is damaged under another name, which is returned."""

    def check_writable(self) -> None:
        """Fail before the training, not after it."""

    def names(self) -> Iterator[str]:
        """Of all artifacts, in no order."""

    def notes(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each name with its note, unverified and without its tensors; what has none is left out."""


def shelf_at(place: str) -> Shelf:
    """The shelf of a folder, or of an address such as s3://bucket/prefix. Raises VpError for an address of another kind."""
    scheme, sign, rest = place.partition("://")
    if not sign and (wrong := re.match(r"(\w{2,}):", place)):
        raise VpError(f"{STORE} is {place!r}: give a folder, or an address such as {wrong[1]}://bucket/prefix")
    if not sign or scheme in ("file", "local"):
        return FolderShelf(Path(rest or place).expanduser())
    if scheme not in BUCKETS:
        known = ", ".join(f"{scheme}://" for scheme in BUCKETS[:-1])
        raise VpError(f"{STORE} is {place!r}: give a folder or one of {known}, whose writes can be conditional; mount others")
    if not rest.strip("/"):
        raise VpError(f"{STORE} is {place!r}: name the bucket, e.g. {scheme}://bucket/prefix")
    return BucketShelf(place.rstrip("/"))


# -- folders ---------------------------------------------------------------------------------------------------------------


class FolderShelf:
    """Files of a folder, of one machine or shared by several."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.locks = folder

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def look(self, names: Sequence[str]) -> dict[str, Version]:
        return {name: version for name in names if (version := self._version(name))}

    def _version(self, name: str) -> Version | None:
        path = self.folder / name
        with suppress(FileNotFoundError, NotADirectoryError), _reading(path):
            found = path.stat()
            return Version(found.st_mtime, f"{found.st_ino} {found.st_mtime_ns}")
        return None

    def load(self, name: str) -> Content:
        path = self.folder / name
        with _reading(path):
            try:
                return artifacts.load(path)
            except NotADirectoryError as error:
                raise FileNotFoundError(str(path)) from error

    def put(self, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any], over: Version | None = None) -> bool:
        path = self.folder / name
        if over and self._version(name) == over:
            artifacts.save(path, tensors, note)
            return True
        return artifacts.save_new(path, tensors, note)

    def set_aside(self, name: str) -> str:
        path = self.folder / name
        aside = path.with_suffix(f".corrupt-{time.time_ns()}")
        with writing_to(self.folder):
            os.replace(path, aside)
        return aside.name

    def check_writable(self) -> None:
        with writing_to(self.folder):
            with tempfile.TemporaryFile(dir=self.folder) as probe:
                probe.write(bytes(2**20))  # more than most results take
            if locks_work(self.folder):
                return
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".probe-") as inside:
                (first := Path(inside) / "1").touch()
                try:
                    os.link(first, Path(inside) / "2")
                except OSError as error:
                    if error.errno not in UNSUPPORTED:
                        raise
                    raise VpError(
                        f"{self.folder} is on a file system with neither file locks nor hard links, where two processes could "
                        f"overwrite each other's results: set {variable_of(self.folder)} to another folder, or "
                        f"{STORE} to a bucket"
                    ) from error

    def names(self) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError), _reading(self.folder), os.scandir(self.folder) as entries:
            yield from (entry.name for entry in entries if entry.name.endswith(".safetensors") and entry.name[0] != ".")

    def notes(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        folder = str(self.folder)  # 100,000 paths take a second
        with suppress(NotADirectoryError), _reading(self.folder):
            for name in names:
                with suppress(FileNotFoundError, ValueError), open(f"{folder}/{name}", "rb", buffering=0) as file:
                    start = file.read(HEAD_BYTES)
                    note = artifacts.note_in(start) or artifacts.note_in(start + file.read())
                    if note is not None:
                        yield name, note


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns an OSError other than that there is no such file into a VpError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise VpError(
            f"cannot read {path} ({error.strerror or error}): check its permissions, or set {variable_of(path)} elsewhere"
        ) from error


# -- buckets ---------------------------------------------------------------------------------------------------------------


class BucketShelf:
    """Objects of a bucket below a prefix, through fsspec."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.scheme = url.partition("://")[0]
        self.locks = home() / "locks" / "results"

    def where(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _reach(self) -> tuple[Any, str]:
        """fsspec's file system, and the path of the prefix in it. fsspec keeps one for each process and thread."""
        try:
            from fsspec.core import url_to_fs

            options: dict[str, Any] = {} if self.scheme == "memory" else {"use_listings_cache": False}  # others write as well
            if self.scheme in WRITES_OF_S3:
                options["session"] = _session(os.getpid())
            files, path = url_to_fs(self.url, **options)
        except ImportError as error:
            package = PACKAGES.get(self.scheme, "fsspec")
            cure = "'vp[cluster]'" if package in ("s3fs", "fsspec") else package
            raise VpError(f"{STORE}={self.url} needs {package}, which is not installed ({error}): pip install {cure}") from error
        return files, str(path)

    def look(self, names: Sequence[str]) -> dict[str, Version]:
        with self._reaching("read"):
            files, root = self._reach()
            try:
                found = files.find(root, detail=True, prefix=_beginning(names))
            except FileNotFoundError:
                return {}
        wanted = {f"{root}/{name}": name for name in names}
        return {wanted[path]: _version_of(info) for path, info in found.items() if path in wanted}

    def load(self, name: str) -> Content:
        with self._reaching("read"):
            files, root = self._reach()
            data = files.cat_file(f"{root}/{name}")
        return artifacts.unpacked(data, self.where(name))

    def put(self, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any], over: Version | None = None) -> bool:
        return self._write(name, artifacts.packed(tensors, note), over)

    def _write(self, name: str, data: bytes, over: Version | None = None) -> bool:
        """Write an object, unless something else than `over` stands there."""
        with self._reaching("write"):
            files, root = self._reach()
            path = f"{root}/{name}"
            for _ in range(5):
                try:
                    self._write_once(files, path, data, over if over and self.look([name]).get(name) == over else None)
                except FileExistsError:
                    return False
                except OSError as error:
                    code = _code_of(error)
                    if code == "PreconditionFailed":
                        return False
                    if code != "ConditionalRequestConflict":  # others write at this moment: S3 asks to try again
                        raise
                    time.sleep(0.1)
                else:
                    return True
        raise VpError(f"cannot write {self.where(name)}: others write it all the time")

    def _write_once(self, files: Any, path: str, data: bytes, over: Version | None) -> None:
        if over is None:
            files.pipe_file(path, data, mode="create")
        elif self.scheme in WRITES_OF_S3:
            files.pipe_file(path, data, IfMatch=over.tag)
        else:
            files.pipe_file(path, data)

    def set_aside(self, name: str) -> str:
        """A copy: the damaged object stays, until a sound one is put over it."""
        aside = f"{Path(name).stem}.corrupt-{time.time_ns()}"
        with self._reaching("write"):
            files, root = self._reach()
            files.cp_file(f"{root}/{name}", f"{root}/{aside}")
        return aside

    def check_writable(self) -> None:
        """Asks the store once a process for permission to write, and whether it refuses to overwrite when told to."""
        _check_once(self.url)

    def names(self) -> Iterator[str]:
        with self._reaching("read"):
            files, root = self._reach()
            try:
                found = files.ls(root, detail=False)
            except FileNotFoundError:
                return
        yield from (path.rpartition("/")[2] for path in found if path.endswith(".safetensors"))

    def notes(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        remaining = iter(names)
        while some := list(islice(remaining, AT_ONCE)):
            with self._reaching("read"):
                files, root = self._reach()
                paths = [f"{root}/{name}" for name in some]
                starts = files.cat_ranges(paths, [0] * len(paths), [HEAD_BYTES] * len(paths), on_error="return")
            for name, path, start in zip(some, paths, starts, strict=True):
                if isinstance(start, FileNotFoundError):
                    continue
                if isinstance(start, BaseException):
                    with self._reaching("read"):
                        raise start
                with suppress(ValueError):
                    if (note := artifacts.note_in(start) or artifacts.note_in(files.cat_file(path))) is not None:
                        yield name, note

    @contextmanager
    def _reaching(self, doing: str) -> Iterator[None]:
        """Turns what libraries raise, each in its own way, into a VpError with the reason and the cure."""
        try:
            yield
        except VpError:
            raise
        except FileNotFoundError as error:
            if doing == "read":
                raise
            raise VpError(f"cannot write to {self.url} ({_first_line(error)}): is there such a bucket?") from error
        except PermissionError as error:
            raise VpError(
                f"cannot {doing} {self.url} ({_first_line(error)}): its credentials must permit to list, read and write there"
            ) from error
        except Exception as error:
            raise VpError(
                f"cannot {doing} {self.url} ({_first_line(error)}): check the address in {STORE}, the network and the credentials"
            ) from error


@cache
def _session(_: int) -> Any:
    """A process's session of S3, which reads times as ISO 8601: botocore tries many formats, and lists at a third of the speed."""
    from aiobotocore.session import AioSession
    from botocore.utils import parse_timestamp

    def when(told: str) -> datetime:
        try:
            return datetime.fromisoformat(told)
        except ValueError:
            found: datetime = parse_timestamp(told)
            return found

    session = AioSession()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=when)
    return session


@cache
def _check_once(url: str) -> None:
    shelf = BucketShelf(url)
    probe, content = ".vp-store", b"written by vp to see whether this place can be written\n"
    with shelf._reaching("write"):
        files, root = shelf._reach()
        files.pipe_file(f"{root}/{probe}", content)
    if shelf._write(probe, content):
        raise VpError(
            f"{url} overwrites what it was told to keep (it ignores If-None-Match), so that two nodes could lose each other's "
            f"results: set {STORE} to a store with conditional writes, or to a shared folder"
        )


def _beginning(names: Sequence[str]) -> str:
    """What all names begin with."""
    first, last = min(names), max(names)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _version_of(info: Mapping[str, Any]) -> Version:
    """Each library has its own words. Where a store tells whole seconds, the end of that second counts."""
    found = next((info[word] for word in ("LastModified", "last_modified", "updated", "mtime", "created") if info.get(word)), 0.0)
    when = datetime.fromisoformat(found) if isinstance(found, str) else found
    seconds = when.timestamp() if isinstance(when, datetime) else float(when)
    tag = next((info[word] for word in ("ETag", "etag", "generation") if info.get(word)), seconds)
    return Version(seconds + 0.999 * seconds.is_integer(), str(tag))


def _code_of(error: BaseException) -> str:
    """What S3 calls an error that s3fs has translated."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _first_line(error: BaseException) -> str:
    words = str(error).strip().splitlines()
    return words[0] if words else type(error).__name__
