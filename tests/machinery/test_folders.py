"""vp.data.folders: any folder of class folders as a dataset; no picture is tested on that was trained on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vp.data import ImageSet, load_images
from vp.data.folders import SIDE, PictureWarning, class_folders, divide, doubtful, read_class_names
from vp.experiments.own import own_run
from vp.experiments.perform import images_of, picture_side
from vp.machine.errors import VpError


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VP_HOME", str(tmp_path_factory.mktemp("home")))


def picture(path: Path, seed: int, size: tuple[int, int] = (9, 8)) -> None:
    """A picture of random pixels, which `seed` alone decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)).save(path)


def classes(root: Path, *, each: int = 6, names: tuple[str, ...] = ("boat", "red_leaf"), seed: int = 0) -> Path:
    for label, name in enumerate(names):
        for nth in range(each):
            picture(root / name / f"{nth}.png", seed + 100 * label + nth)
    return root


def contents(images: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.pixels}


def both(root: Path) -> tuple[ImageSet, ImageSet]:
    return load_images(str(root), "train"), load_images(str(root), "test")


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=60), st.integers(0, 99), st.randoms())
def test_a_split_keeps_duplicates_on_one_side(drawn: list[tuple[int, int]], seed: int, random: object) -> None:
    """Equal pictures are all on one side, also across classes; each class is on both sides; order does not matter."""
    whole = [*drawn, *((1000 + 2 * label + nth, label) for label in range(4) for nth in range(2))]
    digests, labels = [str(content).encode() for content, _ in whole], [label for _, label in whole]
    tested = divide(digests, labels, seed)
    on_test = {digest for digest, is_test in zip(digests, tested, strict=True) if is_test}
    assert on_test.isdisjoint(digest for digest, is_test in zip(digests, tested, strict=True) if not is_test)
    for side in (True, False):
        assert {label for label, is_test in zip(labels, tested, strict=True) if is_test is side} == {0, 1, 2, 3}
    order = list(range(len(whole)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert divide([digests[i] for i in order], [labels[i] for i in order], seed) == [tested[i] for i in order]


def test_an_undivided_folder_is_divided_once(tmp_path: Path) -> None:
    """Both splits of a folder without train and test are disjoint, complete, have a fifth to test, and say how they came about."""
    train, test = both(classes(tmp_path / "mine", each=10))
    assert (len(train), len(test), train.class_names) == (16, 4, ("boat", "red leaf"))
    assert contents(train).isdisjoint(contents(test))
    assert "divided once by content, seed 0, 20% of each class to test; 0 broken left out" in test.source


def test_another_seed_divides_otherwise() -> None:
    """The seed decides the split."""
    digests = [bytes([nth]) for nth in range(40)]
    assert divide(digests, [0] * 40, 0) != divide(digests, [0] * 40, 1)


def test_copies_under_other_names_and_formats_stay_on_one_side(tmp_path: Path) -> None:
    """A picture saved again as BMP, or in another class, is the same picture."""
    root = classes(tmp_path / "mine", each=10)
    for path in sorted(root.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
    train, test = both(root)
    assert (len(train), len(test)) == (32, 8)
    assert contents(train).isdisjoint(contents(test))


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_divided_folder_stays_divided(tmp_path: Path, held_out: str) -> None:
    """Class folders below train and test, or val, are the splits; a training picture that is also tested on is left out."""
    classes(tmp_path / "mine" / "train", each=5)
    classes(tmp_path / "mine" / held_out, each=3, seed=1000)
    picture(tmp_path / "mine" / "train" / "boat" / "copy.bmp", 1001)
    train, test = both(tmp_path / "mine")
    assert (len(train), len(test)) == (10, 6)
    assert contents(train).isdisjoint(contents(test))
    assert f"train and {held_out} as they stand, 1 training pictures left out that are also test pictures" in train.source


def test_a_test_folder_that_links_to_the_training_folder_is_refused(tmp_path: Path) -> None:
    """Where every training picture is a test picture as well, there is nothing to train on."""
    classes(tmp_path / "mine" / "train")
    (tmp_path / "mine" / "test").symlink_to("train")
    with pytest.raises(VpError, match=r"all training pictures of 'boat' .* are test pictures as well"):
        load_images(str(tmp_path / "mine"), "train")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """A folder of pictures called train is a class."""
    assert load_images(str(classes(tmp_path / "toys", names=("boat", "train"))), "test").class_names == ("boat", "train")


def test_pictures_of_several_sizes_become_squares(tmp_path: Path) -> None:
    """Pictures of several sizes, or large ones, are brought to 224 px; small ones of one size stay as they are."""
    root = classes(tmp_path / "mine")
    assert load_images(str(root), "train").pixels.shape[1:] == (3, 9, 8)
    classes(tmp_path / "other")
    picture(tmp_path / "other" / "boat" / "wide.png", 77, (20, 300))
    assert load_images(str(tmp_path / "other"), "train").pixels.shape[1:] == (3, 224, 224)


def test_pictures_keep_what_a_larger_model_can_see(tmp_path: Path) -> None:
    """A model of 336 px is given squares of 336 px, a smaller one squares of 224 px; a set drawn by code stays as it is."""
    picture(classes(tmp_path / "mine") / "boat" / "wide.png", 77, (400, 500))
    run = own_run(str(tmp_path / "mine"), "zero-shot", "ViT-L-14-336-quickgelu/openai")
    assert images_of(run, "train").pixels.shape[1:] == (3, 336, 336)
    assert images_of(replace(run, backbone="ViT-B-32-quickgelu/openai"), "train").pixels.shape[1:] == (3, 224, 224)
    assert images_of(replace(run, backbone="mini-clip"), "train").pixels.shape[1:] == (3, 224, 224)
    assert picture_side("mini10", "ViT-L-14-336-quickgelu/openai") == 224


@pytest.mark.parametrize("limit", [None, 10])
def test_a_union_tests_on_nothing_that_either_part_trains_on(tmp_path: Path, limit: int | None) -> None:
    """A picture that one folder trains on and the other tests on, as another class, is left out of training, and counted."""
    first = classes(tmp_path / "first", each=10)
    second = classes(tmp_path / "second", each=10, names=("cat", "dog"), seed=5)  # five pictures of a class are the first's as well
    apart = [contents(load_images(str(root), split)) for root, split in ((first, "train"), (second, "test"))]
    assert apart[0] & apart[1], "the parts share nothing that could be tested on and trained on"
    train, test = (load_images(f"{first}+{second}", split, limit) for split in ("train", "test"))
    assert contents(train).isdisjoint(contents(test))
    assert train.class_names == test.class_names == ("boat", "red leaf", "cat", "dog")
    if limit is None:
        everything = [load_images(str(root), "train") for root in (first, second)]
        tested = contents(load_images(str(first), "test")) | contents(load_images(str(second), "test"))
        kept = [image.numpy().tobytes() not in tested for images in everything for image in images.pixels]
        assert len(train) == sum(kept) < len(kept)
        assert f"{len(kept) - sum(kept)} train images left out that are also test images" in train.source


def test_a_union_is_as_strict_as_its_parts(tmp_path: Path) -> None:
    """`strict` refuses a broken picture in either folder of a union; class names that are no words are warned of."""
    first, second = classes(tmp_path / "first"), classes(tmp_path / "second", names=("17", "cat"), seed=50)
    with pytest.warns(PictureWarning, match="1 of 4 class names are numbers"):
        load_images(f"{first}+{second}", "test", strict=True)
    third = classes(tmp_path / "third", names=("dog", "fox"), seed=90)
    (third / "dog" / "torn.png").write_bytes(b"not a picture")
    for name in (f"{first}+{third}", f"{third}+{first}"):
        with pytest.raises(VpError, match=r"1 broken picture\(s\): cannot read .*torn.png"):
            load_images(name, "test", strict=True)


def test_broken_pictures_are_counted_for_each_part(tmp_path: Path) -> None:
    """The provenance of either split says how many pictures each part of a divided folder lacks."""
    for part, count in (("train", 2), ("val", 1)):
        classes(tmp_path / "mine" / part, seed=1000 * count)
        for nth in range(count):
            (tmp_path / "mine" / part / "boat" / f"torn{nth}.png").write_bytes(b"not a picture")
    with pytest.warns(PictureWarning):
        sources = [images.source for images in both(tmp_path / "mine")]
    assert all(source.endswith("2 broken left out of train, 1 of val") for source in sources)


def test_a_broken_picture_is_named_and_left_out(tmp_path: Path) -> None:
    """The rest goes on, the count is in the source; `strict` refuses."""
    root = classes(tmp_path / "mine")
    (root / "boat" / "torn.png").write_bytes(b"not a picture")
    with pytest.warns(PictureWarning, match=r"1 broken picture\(s\) left out: cannot read .*torn.png"):
        images = load_images(str(root), "train")
    assert len(images) == 10
    assert "1 broken left out" in images.source
    with pytest.raises(VpError, match=r"1 broken picture\(s\): cannot read .*torn.png"):
        load_images(str(root), "train", strict=True)


def test_hidden_folders_and_loose_files_are_no_class(tmp_path: Path) -> None:
    """One class for each folder, in the order of their names, `_` as a space, with the pictures of folders in it."""
    root = classes(tmp_path / "mine")
    (root / "boat" / "0.png").rename(tmp_path / "kept.png")
    (root / "boat" / "deep").mkdir()
    (tmp_path / "kept.png").rename(root / "boat" / "deep" / "0.png")
    whole = both(root)
    picture(root / ".thumbnails" / "1.png", 70)
    picture(root / "loose.png", 71)
    assert [images.class_names for images in both(root)] == [("boat", "red leaf")] * 2
    assert sum(map(len, whole)) == 12


def test_what_was_decoded_is_read_again_only_when_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are decoded once; a changed file is seen by the next process."""
    from vp.data import folders
    from vp.machine import computed_once

    monkeypatch.setattr(computed_once, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(computed_once, "BYTES_PER_S", 1e18)
    root = classes(tmp_path / "mine")
    first = folders._pictures(root, SIDE)
    with monkeypatch.context() as patched:
        patched.setattr(folders, "read_all", lambda *_, **__: pytest.fail("decoded a second time"))
        assert folders._pictures(root, SIDE)[1].equal(first[1])
    picture(root / "boat" / "new.png", 500)
    assert len(folders._pictures(root, SIDE)[1]) == len(first[1]) + 1


def test_folders_that_are_no_dataset_are_refused(tmp_path: Path) -> None:
    """One class, one picture a class, an empty class, half a division, other classes to test: each error names what is wrong."""
    cases = {
        "one": ("has one class only, 'boat'", ["boat/1.png", "boat/2.png"]),
        "single": ("class 0 has 1 distinct picture", ["boat/1.png", "leaf/1.png", "leaf/2.png"]),
        "half": ("no class folders in .*test or val, but in train", ["train/boat/1.png", "train/leaf/2.png"]),
        "other": (
            "not the same classes: bird, leaf",
            ["train/boat/1.png", "train/leaf/2.png", "test/boat/3.png", "test/bird/4.png"],
        ),
    }
    for name, (message, files) in cases.items():
        for nth, file in enumerate(files):
            picture(tmp_path / name / file, nth)
        with pytest.raises(VpError, match=message):
            load_images(str(tmp_path / name), "train")
    classes(tmp_path / "hollow")
    (tmp_path / "hollow" / "empty").mkdir()
    with pytest.raises(VpError, match=r"no pictures in .*empty"):
        load_images(str(tmp_path / "hollow"), "train")


def test_links_in_circles_are_refused(tmp_path: Path) -> None:
    """A link to itself, to a folder above, or a second one to the same class is an error; a link elsewhere is a class."""
    root = classes(tmp_path / "mine")
    classes(tmp_path / "away")
    (root / "more").symlink_to(tmp_path / "away" / "boat")
    assert [path.name for path in class_folders(root)] == ["boat", "more", "red_leaf"]
    for target, message in (
        ("again", "leads nowhere or in a circle"),
        ("..", "a folder above itself"),
        ("boat", "the same folder"),
    ):
        (root / "again").symlink_to(target)
        with pytest.raises(VpError, match=message):
            class_folders(root)
        (root / "again").unlink()


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A class folder whose name is no UTF-8 is an error in readable words."""
    root = classes(tmp_path / "mine")
    try:
        os.mkdir(os.fsencode(root) + b"/caf\xe9")
    except OSError:
        pytest.skip("NOT RUN: this disk takes no such names")
    with pytest.raises(VpError, match=r"caf..* is no readable text: rename it"):
        class_folders(root)


@pytest.mark.parametrize(
    ("name", "kind"), [("n02084071", "WordNet ids"), ("17", "numbers"), ("bg", "abbreviations"), ("DRK", "abbreviations")]
)
def test_class_names_that_are_no_words_are_warned_of(tmp_path: Path, name: str, kind: str) -> None:
    """WordNet ids, numbers and abbreviations give a warning that says why zero-shot will be near chance; given words do not."""
    assert doubtful(["boat", "cat", "red leaf", "ox cart"]) is None
    root = classes(tmp_path / "mine", names=("boat", name))
    with pytest.warns(PictureWarning, match=f"1 of 2 class names are {kind}, such as .*near chance"):
        load_images(str(root), "test")
    words = ("boat", "dog")
    assert load_images(str(root), "test", class_names=words if name > "boat" else words[::-1]).class_names[name > "boat"] == "dog"


def test_class_names_come_from_a_file(tmp_path: Path) -> None:
    """One a line in the order of the folders, or a TOML table by folder; too few, equal and unknown ones are errors."""
    lines, table = tmp_path / "names.txt", tmp_path / "names.toml"
    lines.write_text("small boat\n\nleaf\n")
    table.write_text('red_leaf = "leaf"\nboat = "small boat"\n')
    folders = ("boat", "red leaf")
    assert read_class_names(lines, folders) == read_class_names(table, folders) == ("small boat", "leaf")
    for text, message in (("a\n", "1 names for 2 classes"), ("a\na\n", "equal or empty names")):
        lines.write_text(text)
        with pytest.raises(VpError, match=message):
            read_class_names(lines, folders)
    table.write_text('bird = "bird"\nboat = "boat"\n')
    with pytest.raises(VpError, match="bird, red leaf missing there or not a class"):
        read_class_names(table, folders)
    with pytest.raises(VpError, match="cannot read class names from"):
        read_class_names(tmp_path / "missing", folders)


def test_reading_on_many_threads_leaves_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    """Warnings that were shown before a folder was read are shown after it."""
    import warnings

    before = list(warnings.filters)
    load_images(str(classes(tmp_path / "mine", each=40)), "train")
    assert list(warnings.filters) == before
