"""Provenance: with what, and where, a number was computed. It is printed beside every result."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from vp import __version__
from vp.machine.runtime import precision


@lru_cache(maxsize=1)
def _commit() -> str:
    """The checkout's commit, with + when files differ from it; empty outside a checkout of this project."""
    root = Path(__file__).resolve().parents[2]

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
