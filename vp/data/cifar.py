"""CIFAR-10 and CIFAR-100 as published, read and verified by torchvision, or as class folders; and stand-ins in the same format.

Krizhevsky 2009: 50,000 training and 10,000 test images of 32 x 32 px. A folder that holds them is recognised by what is in it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import tarfile
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock

from vp.data.folders import class_folders, read_all
from vp.data.images import ImageSet
from vp.data.pictures import is_hidden, list_pictures
from vp.machine.errors import NotAvailable
from vp.machine.home import home

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

CLASS_NAMES = {
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    "cifar100": tuple(
        """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
        caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
        forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
        mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
        possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
        sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
        willow_tree wolf woman worm""".split()
    ),
}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
GENERATED = "generated.json"  # checksums of stand-ins, beside them: what they are can never be mistaken
REHEARSAL = "rehearsal"  # below VP_HOME: the only place where stand-ins are read
CURE = "run `python -m vp fetch`, or give --data a folder that has it"


@cache
def readers() -> dict[str, type[CIFAR10]]:
    """torchvision's readers by name of the set; importing torchvision takes seconds, so that it waits until one is needed."""
    from torchvision.datasets import CIFAR10, CIFAR100

    return {"cifar10": CIFAR10, "cifar100": CIFAR100}


def load_cifar(name: str, split: str, root: Path) -> ImageSet:
    """CIFAR-10 or CIFAR-100 from `root`: torchvision's files (its archive is unpacked), or class folders below train and test.

    `ImageSet.source` says which, because JPEG copies in class folders are not the original pixels. Raises NotAvailable when it
    is not there, or truncated, or has another checksum than it should.
    """
    reader = _reader(name, root)
    archive = root / reader.filename
    if (root / reader.base_folder).is_dir() or archive.exists():
        return _load_published(reader, name, split, root)
    if (folder := _class_folders(name, root)) is not None:
        return _load_class_folders(name, split, folder)
    raise NotAvailable(f"{name} is not in {root}: {CURE}")


def files_of_cifar(name: str, root: Path) -> list[Path]:
    """What `load_cifar` would look at, files and folders; none where nothing is. Raises NotAvailable where they are not CIFAR's."""
    reader = readers()[name]
    published = [root / reader.filename, root / GENERATED, *(root / reader.base_folder).glob("*")]
    if found := sorted(path for path in published if path.is_file()):
        return found
    folder = _class_folders(name, root)
    below = [] if folder is None else [folder / part for part in ("train", "test")]  # each decides what the other leaves out
    return sorted(path for part in below for path in part.rglob("*") if path.exists())


def _reader(name: str, root: Path) -> type[CIFAR10]:
    """torchvision's class, or one with the checksums of the stand-ins that `generate_cifar` put there, for a rehearsal."""
    reader = readers()[name]
    if not root.resolve().is_relative_to((home() / REHEARSAL).resolve()):  # a pickle may run code: any other has to be CIFAR's
        return reader
    try:
        sums = json.loads((root / GENERATED).read_text(encoding="utf-8"))[name]
    except (FileNotFoundError, NotADirectoryError, KeyError):
        return reader

    class Generated(reader):  # type: ignore[valid-type, misc]
        train_list = [[file, sums[file]] for file, _ in reader.train_list]  # noqa: RUF012 (as in torchvision's)
        test_list = [[file, sums[file]] for file, _ in reader.test_list]  # noqa: RUF012
        meta = reader.meta | {"md5": sums[reader.meta["filename"]]}

    return Generated


def _load_published(reader: type[CIFAR10], name: str, split: str, root: Path) -> ImageSet:
    try:
        source = _read(reader, split, root)
    except RuntimeError:
        archive = root / reader.filename
        if not archive.exists():
            raise NotAvailable(f"{name} is truncated or damaged in {root / reader.base_folder}: {CURE}") from None
        from torchvision.datasets.utils import check_integrity

        if not check_integrity(str(archive), reader.tgz_md5):
            raise NotAvailable(f"{archive} is truncated or damaged, its checksum is not that of {name}: {CURE}") from None
        unpack(archive)
        source = _read(reader, split, root)
    pixels = torch.from_numpy(np.ascontiguousarray(source.data)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(source.targets, dtype=torch.int64)
    names = tuple(class_name.replace("_", " ") for class_name in source.classes)
    kind = "published files, checksums verified by torchvision" if reader is readers()[name] else "GENERATED stand-ins, not CIFAR"
    return ImageSet(name, split, pixels, labels, names, source=f"{name}: {kind}")


def _read(reader: type[CIFAR10], split: str, root: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's warning about the alignment of CIFAR's old pickles says nothing to a user
        return reader(str(root), train=split == "train")


def unpack(archive: Path) -> None:
    """Unpack a verified archive beside itself; one process at a time. Raises NotAvailable where that cannot be written."""
    try:
        with FileLock(archive.with_name(f".{archive.name}.lock")):
            with tarfile.open(archive) as tar:
                tar.extractall(archive.parent, filter="data")
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotAvailable(
            f"cannot unpack {archive} ({reason}): free space there, or unpack it elsewhere and give --data"
        ) from error


# -- class folders ---------------------------------------------------------------------------------------------------------


def _class_folders(name: str, root: Path) -> Path | None:
    """The folder with train/CLASS and test/CLASS of this dataset: `root`/NAME, or `root` if its classes are this dataset's."""
    for folder in (root / name, root):
        for split in ("train", "test"):
            shown = [path for path in (folder / split).glob("*/") if not is_hidden(path, folder)]
            if {path.name.replace(" ", "_") for path in shown} == {*CLASS_NAMES[name]}:
                return folder
    if (root / name).is_dir():
        few = ", ".join(CLASS_NAMES[name][:3])
        raise NotAvailable(
            f"the folders in {root / name} are not the classes of {name}: expected train and test with one folder a class "
            f"({few}, ...)"
        )
    return None


def _load_class_folders(name: str, split: str, folder: Path) -> ImageSet:
    """A training picture that is also a test picture is left out of training, as in any other folder."""
    if not (folder / split).is_dir():
        raise NotAvailable(f"{folder} has no {split} images of {name}: expected {folder / split} with one folder a class")
    images = _read_class_folders(name, split, folder / split)
    if split == "train" and (folder / "test").is_dir():
        images = images.without(_read_class_folders(name, "test", folder / "test"))
        if len(missing := {*range(len(images.class_names))} - {*images.labels.tolist()}):
            odd = images.class_names[min(missing)]
            raise NotAvailable(f"all training pictures of {odd!r} in {folder} are test pictures as well: give others to train on")
    return images


def _read_class_folders(name: str, split: str, root: Path) -> ImageSet:
    folders = class_folders(root)
    names = tuple(path.name.replace("_", " ") for path in folders)
    if odd := {*names} ^ {class_name.replace("_", " ") for class_name in CLASS_NAMES[name]}:
        raise NotAvailable(f"{root} has not the classes of {name}: {', '.join(sorted(odd)[:3])} missing or too many")
    label_of = {path: label for label, own in enumerate(folders) for path in list_pictures(own)}
    paths, pixels, _, broken = read_all([*label_of], f"{name} {split}")
    if broken:
        raise NotAvailable(
            f"{len(broken)} broken picture(s) of {name}, so that its images are not all there; the first: {broken[0]}"
        )
    kinds = {path.suffix.lower().removeprefix(".") for path in paths}
    what = "re-encoded copies, not the original pixels" if kinds & {"jpg", "jpeg", "webp"} else "not verified to be the original"
    source = f"{name}: {len(paths)} {split} images from class folders of {' and '.join(sorted(kinds))} files, {what}"
    return ImageSet(name, split, pixels, torch.tensor([label_of[path] for path in paths]), names, source)


# -- stand-ins -------------------------------------------------------------------------------------------------------------


def generate_cifar(root: Path, train: int = 50_000, test: int = 10_000, seed: int = 0) -> None:
    """Write random images, coloured and grey by turns, in the format of both datasets, with checksums of their own.

    `train` is a multiple of 5, the number of files that CIFAR-10 has for it.
    What is there already and whole is left alone. Stand-ins serve to rehearse a run; they say so wherever they are read.
    """
    root.mkdir(parents=True, exist_ok=True)
    wanted = {"train": train, "test": test, "seed": seed}
    with FileLock(root / ".generate.lock"):
        manifest = root / GENERATED
        if manifest.exists() and json.loads(manifest.read_text(encoding="utf-8"))["wanted"] == wanted:
            return
        manifest.unlink(missing_ok=True)
        sums = {name: _generate(root, name, train, test, seed) for name in CLASS_NAMES}
        temporary = manifest.with_suffix(".part")
        temporary.write_text(json.dumps({"wanted": wanted} | sums, indent=1), encoding="utf-8")
        temporary.replace(manifest)


def _generate(root: Path, name: str, train: int, test: int, seed: int) -> dict[str, str]:
    """The files of one dataset; gives back their MD5 sums, which is what torchvision verifies."""
    reader, classes = readers()[name], CLASS_NAMES[name]
    folder = root / reader.base_folder
    folder.mkdir(exist_ok=True)
    stream = np.random.default_rng((seed, len(classes)))
    contents = {}
    for files, count in ((reader.train_list, train), (reader.test_list, test)):
        for file, _ in files:
            rows = count // len(files)
            labels = (stream.permutation(rows) % len(classes)).tolist()
            contents[file] = {"data": _draw(stream, rows), LABELS[name]: labels}
    contents[reader.meta["filename"]] = {reader.meta["key"]: [*classes]}
    sums = {}
    for file, content in contents.items():
        written = pickle.dumps(content, protocol=2)
        (folder / file).write_bytes(written)
        sums[file] = hashlib.md5(written, usedforsecurity=False).hexdigest()
    return sums


def _draw(stream: np.random.Generator, rows: int) -> Any:
    """uint8 (rows, 3072), plane by plane as CIFAR's files have it: noise on one of the primary colours, or on grey."""
    tint = np.eye(3)[stream.integers(3, size=rows)] * (np.arange(rows) % 2)[:, None]
    noise = stream.integers(64, size=(rows, 3, 32 * 32), dtype=np.uint8)
    return (noise + (128 * tint).astype(np.uint8)[:, :, None]).reshape(rows, -1)
