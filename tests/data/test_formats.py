"""Data sets as downloaded, from small files that are made here, and every way in which they can be broken."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinyflow.data import DataError, Splits, open_data
from tinyflow.data.cifar import unpickle

RANDOM = np.random.default_rng(0)


# ---- image folders ---------------------------------------------------------------------------------------------------


def image_file(path: Path, value: int, size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def image_folder(root: Path, parts: dict[str, int]) -> Path:
    """``root/<part>/<class>/<k>.png`` with a number of images a class; a cat is dark, a dog bright."""
    for part, count in parts.items():
        for value, name in ((10, "cat"), (200, "dog")):
            for k in range(count):
                image_file(root / part / name / f"{k}.png", value + k)
    return root


def test_train_and_val_folders(tmp_path: Path) -> None:
    splits = open_data(image_folder(tmp_path / "pets", {"train": 4, "val": 2}), image_size=8)
    assert splits.name == "pets"
    assert splits.train.classes == splits.test.classes == ("cat", "dog")
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    images = splits.train.images(np.array([7, 0]))
    assert images.shape == (2, 3, 8, 8)
    assert images[:, 0, 0, 0].tolist() == [203, 10]
    assert splits.train.mirrors


def test_without_a_test_folder_every_fifth_is_held_out(tmp_path: Path) -> None:
    splits = open_data(image_folder(tmp_path, {"": 11}))
    assert len(splits.train) == 18
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    assert splits.test.image_size == 224


def test_a_test_class_keeps_its_number_where_others_are_absent(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train": 1})
    image_file(tmp_path / "test" / "dog" / "a.jpg", 3)
    assert open_data(tmp_path).test.labels.tolist() == [1]


def no_val(root: Path) -> None:
    image_folder(root, {"train": 1})


def strange_class(root: Path) -> None:
    image_folder(root, {"train": 1, "val": 1})
    image_file(root / "val" / "bird" / "a.png", 3)


def empty_class(root: Path) -> None:
    image_folder(root, {"": 5})
    (root / "bird").mkdir()
    (root / "bird" / "notes.txt").touch()


def too_few(root: Path) -> None:
    image_folder(root, {"": 4})


def no_classes(root: Path) -> None:
    (root / "train").mkdir()


def nothing(root: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_val, "none of val, valid, validation, test"),
        (strange_class, "classes that .* lacks: bird"),
        (empty_class, "bird holds no image files"),
        (too_few, "no class has five images"),
        (no_classes, "train has no class folders|none of val"),
        (nothing, "holds no data set that is known here"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    splits = open_data(image_folder(tmp_path, {"train": 1, "val": 1}))
    (tmp_path / "train" / "dog" / "0.png").write_text("no")
    with pytest.raises(DataError, match=r"dog/0\.png is not an image"):
        splits.train.images(np.array([1]))


@pytest.mark.parametrize(("path", "message"), [("missing", "does not exist"), ("file", "is a file; expected a folder")])
def test_paths_that_are_no_folder(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / path)


def test_an_image_size_that_is_none() -> None:
    with pytest.raises(DataError, match="positive image size, got 0"):
        open_data(None, 0)


# ---- CIFAR -----------------------------------------------------------------------------------------------------------


def python2_pickle(value: Any) -> bytes:
    """A pickle with the instructions that Python 2 wrote, as the published files hold."""
    if isinstance(value, bytes):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(python2_pickle, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2_pickle(x) for pair in value.items() for x in pair) + b"u"
    array = np.ascontiguousarray(value)
    assert array.dtype == np.uint8
    shape = b"".join(map(python2_pickle, array.shape))
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return start + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + python2_pickle(array.tobytes()) + b"tb"


def python2_file(value: Any) -> bytes:
    return b"\x80\x02" + python2_pickle(value) + b"."


def cifar10_files() -> dict[str, bytes]:
    files = {"batches.meta": python2_file({b"label_names": [b"plane", b"car", b"bird"], b"num_vis": 3072})}
    for k, name in enumerate((*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")):
        data = np.full((4, 3072), k, np.uint8)
        data[:, 0] = range(4)
        files[name] = python2_file({b"data": data, b"labels": [0, 1, 2, k % 3], b"filenames": [b"x.png"] * 4})
    return files


def cifar100_files() -> dict[str, bytes]:
    files = {"meta": python2_file({b"fine_label_names": [b"apple", b"bee"], b"coarse_label_names": [b"thing"]})}
    for name in ("train", "test"):
        content = {b"data": np.zeros((3, 3072), np.uint8), b"fine_labels": [1, 0, 1], b"coarse_labels": [0, 0, 0]}
        files[name] = python2_file(content)
    return files


def as_folder(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def as_archive(files: dict[str, bytes], path: Path, folder: str) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def check_cifar10(splits: Splits) -> None:
    assert splits.name == "cifar10"
    assert (len(splits.train), len(splits.test)) == (20, 4)
    assert splits.train.classes == ("plane", "car", "bird")
    assert splits.train.labels.tolist() == [0, 1, 2, 0, 0, 1, 2, 1, 0, 1, 2, 2, 0, 1, 2, 0, 0, 1, 2, 1]
    images = splits.train.images(np.array([0, 6]))
    assert images.shape == (2, 3, 32, 32)
    assert images[:, 0, 0, 0].tolist() == [0, 2]
    assert images[:, 2, 31, 31].tolist() == [0, 1]
    assert splits.train.mirrors


def test_cifar10_as_archive_folder_and_folder_of_the_folder(tmp_path: Path) -> None:
    check_cifar10(open_data(as_archive(cifar10_files(), tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py")))
    folder = as_folder(cifar10_files(), tmp_path / "data" / "cifar-10-batches-py")
    check_cifar10(open_data(folder))
    check_cifar10(open_data(folder.parent))


def test_cifar100_uses_the_fine_labels(tmp_path: Path) -> None:
    splits = open_data(as_archive(cifar100_files(), tmp_path / "cifar-100-python.tar.gz", "cifar-100-python"), 16)
    assert splits.name == "cifar100"
    assert splits.train.classes == ("apple", "bee")
    assert splits.test.labels.tolist() == [1, 0, 1]
    assert splits.test.images(np.array([0])).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_file_written_by_a_newer_numpy_is_read(protocol: int) -> None:
    data = RANDOM.integers(0, 256, (2, 3072), dtype=np.uint8)
    if protocol == 2:
        content: bytes = python2_file({b"data": data})
    else:
        content = pickle.dumps({b"data": data}, protocol)
    assert np.array_equal(unpickle(content, "x")[b"data"], data)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        pickle.dumps({b"data": Evil()}),
        b"\x80\x02cos\nsystem\n(U\x04trueR.",
        b"\x80\x02cnumpy\nload\n(U\x01xtR.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
    ],
)
def test_a_pickle_that_would_run_code_is_refused(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="not a CIFAR file that can be read: it names"):
        unpickle(content, "x")
    assert capsys.readouterr().out == ""


def test_damaged_cifar_files(tmp_path: Path) -> None:
    good = cifar10_files()
    wrong = python2_file({b"data": np.zeros((4, 10), np.uint8), b"labels": [0] * 4})
    unlabelled = python2_file({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0] * 3})
    beyond = python2_file({b"data": np.zeros((4, 3072), np.uint8), b"labels": [3] * 4})
    for k, (change, message) in enumerate(
        (
            ({"data_batch_3": good["data_batch_3"][:500]}, "data_batch_3 is not a CIFAR file that can be read"),
            ({"data_batch_3": b""}, "data_batch_3 is not a CIFAR file"),
            ({"data_batch_3": python2_file([1])}, "expected a dictionary, got list"),
            ({"data_batch_3": wrong}, r"data_batch_3: expected uint8 data \(N, 3072\)"),
            ({"test_batch": unlabelled}, "test_batch: expected 4 whole-number labels"),
            ({"test_batch": beyond}, "expected labels from 0 to 2"),
            ({"batches.meta": python2_file({})}, "batches.meta holds no class names"),
        )
    ):
        with pytest.raises(DataError, match=message):
            open_data(as_folder(good | change, tmp_path / str(k)))
    del good["data_batch_2"]
    with pytest.raises(DataError, match="lacks data_batch_2"):
        open_data(as_folder(good, tmp_path / "incomplete"))


def test_damaged_archive(tmp_path: Path) -> None:
    path = as_archive(cifar10_files(), tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="not an archive that can be read"):
        open_data(path)


# ---- MNIST -----------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_folder(root: Path, compressed: bool, separator: str = "-") -> Path:
    root.mkdir(parents=True)
    for name, count in (("train", 6), ("t10k", 3)):
        images = np.full((count, 28, 28), count, np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype=np.uint8))):
            content = idx(array)
            file = f"{name}-{kind}-ubyte".replace("-idx", f"{separator}idx")
            (root / (file + ".gz" * compressed)).write_bytes(gzip.compress(content) if compressed else content)
    return root


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("separator", ["-", "."])
def test_mnist(tmp_path: Path, compressed: bool, separator: str) -> None:
    splits = open_data(mnist_folder(tmp_path / "MNIST" / "raw", compressed, separator).parent)
    assert splits.name == "mnist"
    assert (len(splits.train), len(splits.test)) == (6, 3)
    assert splits.train.classes == tuple("0123456789")
    assert splits.train.images(np.array([0])).shape == (1, 1, 28, 28)
    assert splits.test.labels.tolist() == [0, 1, 2]
    assert not splits.train.mirrors


def test_fashion_mnist_is_known_by_its_folder(tmp_path: Path) -> None:
    splits = open_data(mnist_folder(tmp_path / "FashionMNIST" / "raw", True))
    assert splits.name == "fashion-mnist"
    assert splits.train.classes[9] == "Ankle boot"
    assert splits.train.mirrors


def test_damaged_idx_files(tmp_path: Path) -> None:
    images, labels = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    good = idx(np.zeros((6, 28, 28), np.uint8))
    for k, (name, content, message) in enumerate(
        (
            (images, good[:-1], f"expected {len(good)} bytes for shape .6, 28, 28., got {len(good) - 1}"),
            (images, good + b"\0", "expected .* bytes"),
            (images, good[:9], "cut short in its header"),
            (images, b"", "is not an IDX file"),
            (images, b"\x89PNG1234", "is not an IDX file"),
            (images, idx(np.zeros(6, np.uint8)), r"expected images \(N, H, W\)"),
            (labels, idx(np.zeros(5, np.uint8)), "one label an image"),
        )
    ):
        folder = mnist_folder(tmp_path / str(k), False)
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_data(folder)


def test_damaged_gzip_and_missing_file(tmp_path: Path) -> None:
    folder = mnist_folder(tmp_path / "a", True)
    file = folder / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz cannot be read"):
        open_data(folder)
    file.unlink()
    with pytest.raises(DataError, match="lacks t10k-labels-idx1-ubyte"):
        open_data(folder)
