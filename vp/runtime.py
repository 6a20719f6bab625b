"""Where and with what a number is computed: the device, the seeds, and the provenance printed beside every result."""

from __future__ import annotations

import os
import platform
import random
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from vp import __version__
from vp.devices import SHARING

CONTEXT_BYTES = 2**30  # of a GPU's memory, that a process takes before its first tensor
RANDOM = "random"  # in place of the name of weights: a backbone of random weights, to rehearse with


class VpError(Exception):
    """Something the user can mend: one line that says what was given, what was expected and what to do."""


class NotAvailable(VpError):
    """A device, weights or data that this machine lacks: the run is NOT RUN, which is neither a pass nor a failure."""


def home() -> Path:
    """The folder of downloads, results and locks: `VP_HOME`, or `vp` in the user's cache folder."""
    if given := os.environ.get("VP_HOME"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vp"


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raises VpError with the reason and the cure where what is done in the context cannot be written below VP_HOME."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise VpError(f"cannot write to {folder} ({reason}): free space or set VP_HOME to a folder you can write") from error


def given_bytes(variable: str, otherwise: float) -> float:
    """As many bytes as an environment variable gives GiB, or `otherwise`. Raises VpError when it is no number of at least 0."""
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


def pick_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA if there is any, else the CPU), `cpu`, `cuda` or `mps`. Raises NotAvailable when it is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name not in here:
        raise VpError(f"no device {name!r}: give auto, {', '.join(here)}")
    if not here[name]:
        raise NotAvailable(f"device {name!r} asked for, but this machine has none: give --device auto or cpu")
    if name == "cuda":
        _prepare_cuda()
    return torch.device(name)


def device_share() -> int:
    """How many workers compute on this process's device, itself included: 1 unless vp.devices says otherwise."""
    given = os.environ.get(SHARING, "1")
    return int(given) if given.isdigit() and int(given) else 1


@lru_cache(maxsize=1)
def _prepare_cuda() -> None:
    """Products in float32 have its precision, not TF32's. Of several workers on one device, each may take its part of the memory
    and no more, less what CUDA and its libraries take beside it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if (share := device_share()) > 1:
        total = torch.cuda.get_device_properties(torch.device("cuda")).total_memory
        torch.cuda.set_per_process_memory_fraction(min(0.95, max(0.5, 1 - share * CONTEXT_BYTES / total)) / share)


_PRECISION: ContextVar[torch.dtype | None] = ContextVar("precision", default=None)


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Another `precision` than the device's own while the context lasts."""
    token = _PRECISION.set(dtype)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def precision(device: torch.device) -> torch.dtype:
    """What matrix products are computed in: bfloat16 on a CUDA device that has it, else float16 there; float32 elsewhere."""
    if chosen := _PRECISION.get():
        return chosen
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def to_device(device: torch.device, drawn: torch.Tensor) -> torch.Tensor:
    """What was drawn on the CPU, for a step on a device. On CUDA that need not wait for the step before; MPS may read what is
    copied without waiting after it was freed."""
    return drawn.to(device, non_blocking=device.type == "cuda")


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """autocast in the `precision` of the device; nothing where that is float32."""
    dtype = precision(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def out_of_memory(error: BaseException) -> bool:
    """Did memory not suffice? torch has a type for what it allocates on CUDA; the CPU's allocator, CUDA itself and its libraries
    say it in words."""
    told = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in told)


class OutOfMemory(NotAvailable):
    """The device does not hold even the least that has to be computed at once."""


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random. Same seed, same machine, same thread count: bit-equal results on the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def own_random_stream(seed: int) -> Iterator[None]:
    """Draw on the CPU from torch's global stream as if freshly seeded, and leave it as it was found. No other device is touched."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@lru_cache(maxsize=1)
def _commit() -> str:
    """The checkout's commit, with + when files differ from it; empty outside a checkout of this project."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    if not (root / ".git").exists():
        return ""
    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", "vp") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of the packages that numbers depend on; "not installed" where there is no such."""
    found = {}
    for package in ("torch", "torchvision", "open_clip_torch", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def provenance(device: torch.device | str = "cpu") -> dict[str, str]:
    """Versions, device, threads and commit under which a number was computed."""
    device = torch.device(device)
    return {
        "vp": __version__,
        **versions(),
        "python": platform.python_version(),
        "precision": str(precision(device)).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
        "commit": _commit(),
    }
