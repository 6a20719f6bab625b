"""What full scale needs from the network: is it here, and how to bring it here, all below VP_HOME."""

from __future__ import annotations

import difflib
import shutil
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from vp.data import data_root
from vp.data.cifar import CLASS_NAMES, load_cifar, readers, unpack
from vp.experiments import SCALES
from vp.machine.downloads import DownloadFailed, check_network, download, matches, offline_because, weights_folder
from vp.machine.errors import NotAvailable, VpError
from vp.machine.home import home, writing_to
from vp.models.weights import (
    RANDOM,
    check_clip_name,
    clip_source,
    find_clip_weights,
    is_network,
    network_source,
    network_weights,
    note_checksum,
    weights_are_whole,
)

SIZES_MIB = {"cifar10": 340, "cifar100": 340, "ViT-B-32-quickgelu/openai": 580, "resnet18/IMAGENET1K_V1": 45}  # for people


@dataclass(frozen=True)
class Piece:
    """One dataset or set of weights, by the name that runs call it by."""

    name: str
    folder: Path  # where it belongs
    is_here: Callable[[], bool]
    bring: Callable[[], None]


def needed() -> list[str]:
    """The names of all that the full-scale runs need."""
    scale = SCALES["full"]
    return [*scale.datasets.values(), scale.backbone, scale.network]


def piece(name: str) -> Piece:
    """A dataset (`cifar10`, `cifar100`) or weights (`MODEL/PRETRAINED`). Raises VpError for what is never downloaded, and with
    the nearest names for others."""
    if name in ("mini-clip", "mini-resnet"):
        raise VpError(f"{name} ships with the package, there is nothing to fetch: give one of {', '.join(needed())}")
    if name.endswith(f"/{RANDOM}"):
        raise VpError(f"{name} has random weights, there is nothing to fetch: give one of {', '.join(needed())}")
    if name in CLASS_NAMES:
        root = data_root()
        return Piece(name, root, lambda: _cifar_is_here(name, root), lambda: _bring_cifar(name, root))
    if is_network(name):
        architecture, _, tag = name.partition("/")
        url = network_source(architecture, tag)
        path, checksum = network_weights(url)
        return Piece(name, path.parent, lambda: matches(path, checksum), lambda: download(url, path, checksum))
    if "/" not in name and (near := difflib.get_close_matches(name, needed(), n=2)):
        raise VpError(f"nothing to fetch is called {name!r}: did you mean {' or '.join(near)}?")
    architecture, tag = check_clip_name(name)
    return Piece(name, weights_folder(), lambda: _clip_is_here(architecture, tag), lambda: _bring_clip(architecture, tag))


def fetch(names: Sequence[str], say: Callable[[str], None]) -> None:
    """Download missing files. Raises VpError when one cannot be had; finished downloads are kept."""
    pieces = [piece(name) for name in names]
    missing = [some for some in pieces if not some.is_here()]
    if missing and (variable := offline_because()):
        listed = ", ".join(some.name for some in missing)
        raise VpError(f"{variable} forbids downloads, and {listed} is missing: unset it, or copy {home()} from another machine")
    for some in pieces:
        if some not in missing:
            say(f"{some.name}: here already")
            continue
        about = f", about {SIZES_MIB[some.name]} MiB" if some.name in SIZES_MIB else ""
        say(f"{some.name}: fetching{about}")
        some.bring()
        if not some.is_here():
            raise VpError(
                f"{some.name} was fetched but cannot be found in {some.folder}: delete what is there of it and start again"
            )


def _cifar_is_here(name: str, root: Path) -> bool:
    try:
        return all(load_cifar(name, split, root) for split in ("train", "test"))
    except NotAvailable:
        return False


def _bring_cifar(name: str, root: Path) -> None:
    reader = readers()[name]
    archive = root / reader.filename
    download(reader.url, archive, f"md5:{reader.tgz_md5}")
    unpack(archive)


def _clip_is_here(architecture: str, tag: str) -> bool:
    found = find_clip_weights(architecture, tag, elsewhere=False)
    return found is not None and weights_are_whole(found)


def _bring_clip(architecture: str, tag: str) -> None:
    """From the hub, by its own library, which shows progress and goes on where it stopped."""
    place, files = clip_source(architecture, tag)
    folder = weights_folder()
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if damaged := find_clip_weights(architecture, tag, elsewhere=False):
        with writing_to(folder):
            if damaged.resolve().is_relative_to(folder.resolve()):
                damaged.resolve().unlink()
            damaged.unlink(missing_ok=True)
    if (found := find_clip_weights(architecture, tag)) and len(found.resolve().name) == 64 and weights_are_whole(found):
        with writing_to(folder):
            note_checksum(_copy_from_hub_cache(found, folder))
        return
    check_network(constants.ENDPOINT)
    for file in files:
        try:
            found = Path(hf_hub_download(place, file, cache_dir=folder, token=False))
        except LocalEntryNotFoundError as error:
            raise DownloadFailed(
                f"no network to the Hugging Face hub ({type(error.__cause__ or error).__name__}): start again to go on, or copy "
                f"{home()} from a machine that has fetched it"
            ) from error
        except EntryNotFoundError:
            continue
        except OSError as error:
            raise DownloadFailed(f"{place} could not be fetched from the hub ({error}): start again to go on") from error
        if not weights_are_whole(found):
            raise DownloadFailed(f"{file} of {place} arrived with another checksum: start again")
        with writing_to(folder):
            note_checksum(found)
        return
    raise DownloadFailed(f"{place} on the Hugging Face hub has none of {', '.join(files)}: give other weights")


def _copy_from_hub_cache(found: Path, folder: Path) -> Path:
    """Copy verified weights, and what says that they are the current ones, from the hub's own cache into `folder`."""
    place = found.relative_to(constants.HF_HUB_CACHE)  # models--OWNER--NAME/snapshots/REVISION/FILE
    repository, _, revision, *_ = place.parts
    copy, current = folder / place, folder / repository / "refs" / "main"
    copy.parent.mkdir(parents=True, exist_ok=True)
    current.parent.mkdir(parents=True, exist_ok=True)
    part = copy.with_suffix(".part")
    try:
        shutil.copyfile(found, part)
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)
    current.write_text(revision, encoding="utf-8")
    return copy


def command(arguments: Namespace) -> None:
    fetch(arguments.names or needed(), say=print)
    print(f"all here, in {home()}: copy that folder to machines without network. next: python -m vp doctor")
