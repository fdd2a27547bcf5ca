"""Whatever holds the images, the predictions are those of the arrays, in the order that a user expects."""

import csv
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from scoring.sources.files import files_of
from serving.model.predictor import Predictor
from serving.model.submission import submission
from tests.conftest import Command
from xtrain import api
from xtrain.data.datasets import read_npz

COUNT = 60


@pytest.fixture(scope="module")
def images(sample: Path) -> np.ndarray:
    return read_npz(sample).splits["test"].images[:COUNT]


@pytest.fixture(scope="module")
def files(images: np.ndarray) -> list[bytes]:
    """Each image as PNG."""
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, files: list[bytes]) -> Path:
    """A folder of folders, whose natural order is that of the images and whose order by letters is not."""
    folder = tmp_path_factory.mktemp("tiles")
    for index, content in enumerate(files):
        path = folder / f"slide{index // 20 + 9}" / f"tile{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def expected(sample_model: Path, images: np.ndarray) -> str:
    return submission(Predictor(sample_model).predict(images))


def write_tar(path: Path, files: list[bytes], first: int = 0, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for index, content in enumerate(files, first):
            for name, data in ((f"a/{index:04}.seg.png", content), (f"a/{index:04}.cls", b"3")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def make(kind: str, at: Path, folder: Path, files: list[bytes], images: np.ndarray) -> str:
    """Write the images in one of the forms that are read, and return what the user types."""
    names = [path.as_posix() for path in sorted(folder.rglob("*.png"), key=lambda path: int(path.stem[4:]))]
    if kind == "folder":
        (folder / "README.txt").write_text("notes")
        (folder / "labels.csv").write_text("path,label\n")
        return str(folder)
    if kind == "pattern":
        return f"{folder}/**/*.png"
    if kind == "numbers":
        return f"{folder}/slide*/tile{{0..{COUNT - 1}}}.png"
    if kind == "npy":
        np.save(at / "a.npy", images)
        return str(at / "a.npy")
    if kind in ("npz", "fortran"):
        np.savez(at / "a.npz", images=np.asfortranarray(images) if kind == "fortran" else images)
        return str(at / "a.npz")
    if kind == "zip":
        with zipfile.ZipFile(at / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/slide9/._tile0.png", b"resource fork")
            for index in reversed(range(COUNT)):  # natural order, not the archive's
                archive.writestr(f"tiles/tile{index}.png", files[index])
        return str(at / "a.zip")
    if kind in ("tar", "tar.gz"):
        return str(write_tar(at / f"a.{kind}", files, mode="w:gz" if kind == "tar.gz" else "w"))
    if kind == "tars":
        for number in range(3):
            write_tar(at / f"s-{number:03}.tar", files[20 * number : 20 * number + 20], 20 * number)
        return str(at / "s-{000..002}.tar")
    if kind == "csv":
        (at / "list.csv").write_text("label;path\r\n" + "".join(f"1;{name}\r\n" for name in names))
        return str(at / "list.csv")
    if kind == "relative csv":
        shutil.copytree(folder, at / "tiles")
        relative = [Path("tiles", *Path(name).parts[-2:]) for name in names]
        (at / "list.csv").write_text("file\n" + "".join(f"{name}\n" for name in relative))
        return str(at / "list.csv")
    tables = {
        "parquet list": {"path": names, "label": [1] * COUNT},
        "parquet": {"picture": files, "key": [f"k{index}" for index in range(COUNT)]},
        "hugging face": {"image": [{"bytes": data, "path": f"{index}.png"} for index, data in enumerate(files)]},
    }
    parquet.write_table(pyarrow.table(tables[kind]), at / "a.parquet", row_group_size=17)
    return str(at / "a.parquet")


KINDS = (
    *("folder", "pattern", "numbers", "npy", "npz", "fortran", "zip", "tar", "tar.gz", "tars"),
    *("csv", "relative csv", "parquet list", "parquet", "hugging face"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_predictions(
    command: Command,
    sample_model: Path,
    tmp_path: Path,
    folder: Path,
    files: list[bytes],
    images: np.ndarray,
    expected: str,
    kind: str,
) -> None:
    """Also cut into shards of other sizes than the parts."""
    data = make(kind, tmp_path, folder, files, images)
    result = command("xscore", sample_model, data, "-o", tmp_path / "out.csv", "--shard-rows", 23)
    assert result.code == 0, result.err
    assert (tmp_path / "out.csv").read_text() == expected
    assert ("2 other files are left out" in result.out) == (kind == "folder")


def ids(path: Path) -> list[str]:
    with path.open() as file:
        return [line["ID"] for line in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [
        ("folder", "slide9/tile0.png", f"slide11/tile{COUNT - 1}.png"),
        ("zip", "tiles/tile0.png", f"tiles/tile{COUNT - 1}.png"),
        ("tar", "a/0000", f"a/{COUNT - 1:04}"),
        ("parquet", "k0", f"k{COUNT - 1}"),
        ("hugging face", "0.png", f"{COUNT - 1}.png"),
    ],
)
def test_images_go_by_their_names(
    command: Command,
    sample_model: Path,
    tmp_path: Path,
    folder: Path,
    files: list[bytes],
    images: np.ndarray,
    kind: str,
    first: str,
    last: str,
) -> None:
    data = make(kind, tmp_path, folder, files, images)
    assert command("xscore", sample_model, data, "-o", tmp_path / "out.csv", "--id", "filename").code == 0
    names = ids(tmp_path / "out.csv")
    assert (names[0], names[-1], len(names)) == (first, last, COUNT)


def test_rows_of_an_array_have_no_names(command: Command, sample_model: Path, sample: Path, tmp_path: Path) -> None:
    result = command("xscore", sample_model, sample, "-o", tmp_path / "out.csv", "--id", "filename")
    assert result.code == 2 and "have no names" in result.error and not (tmp_path / "out.csv").exists()


def test_names_that_a_spreadsheet_would_run(
    command: Command, sample_model: Path, tmp_path: Path, files: list[bytes]
) -> None:
    """And a name in no encoding, which Linux allows."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "=1+1.png").write_bytes(files[0])
    Path(str(tmp_path / "in") + "/z\udcff.png").write_bytes(files[1])
    for name in ("out.csv", "out.parquet", "out.jsonl"):
        result = command("xscore", sample_model, tmp_path / "in", "-o", tmp_path / name, "--id", "filename")
        assert result.code == 0, result.err
    assert ids(tmp_path / "out.csv") == ["'=1+1.png", "z\\udcff.png"]
    assert parquet.read_table(tmp_path / "out.parquet").to_pydict()["id"] == ["=1+1.png", "z\\udcff.png"]


def test_an_iterable_of_anything(
    sample_model: Path, tmp_path: Path, folder: Path, files: list[bytes], images: np.ndarray, expected: str
) -> None:
    """Bytes, paths, pictures and arrays, from a script without a `__main__` guard."""

    def pairs() -> object:
        for index in range(COUNT):
            forms = (files[index], folder / f"slide{index // 20 + 9}" / f"tile{index}.png", images[index])
            yield f"n{index}", (*forms, Image.fromarray(images[index]))[index % 4]

    scored = api.score(sample_model, pairs(), tmp_path / "out.csv")  # type: ignore[arg-type]
    assert scored.rows == COUNT and scored.split is None and (tmp_path / "out.csv").read_text() == expected
    for wrong, text in (([1], "pairs"), ([("a", 3)], "int as an image"), ([], "no images")):
        with pytest.raises(api_errors(), match=text):
            api.score(sample_model, wrong, tmp_path / "no.csv")  # type: ignore[arg-type]
    cut = Image.open(io.BytesIO(files[0][: len(files[0]) // 2]))
    mixed = [("a", cut), ("b", Image.new("F", (28, 28))), ("c", images[0])]
    scored = api.score(sample_model, mixed, tmp_path / "m.csv", on_error="skip")
    assert (scored.rows, scored.errors, ids(tmp_path / "m.csv")) == (3, 2, ["2"])
    with pytest.raises(api_errors(), match="array"):
        api.score(sample_model, [("a", np.zeros((3, 28, 28), np.uint8))], tmp_path / "no.csv")
    script = f"import xtrain\nprint(xtrain.score({str(sample_model)!r}, {str(folder)!r}, {str(tmp_path / 's.csv')!r}))"
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.count("Scored") == 1, done.stderr


def api_errors() -> type[Exception]:
    from xtrain.errors import DataError

    return DataError


def test_what_cannot_be_scored_is_said(
    command: Command, sample_model: Path, tmp_path: Path, files: list[bytes], folder: Path
) -> None:
    def error(data: object, *options: object, code: int = 1) -> str:
        result = command("xscore", sample_model, data, "-o", tmp_path / "out.csv", *options)
        assert result.code == code, result.err
        assert not (tmp_path / "out.csv").exists()
        return result.error

    (tmp_path / "empty").mkdir()
    assert "holds no images that are read" in error(tmp_path / "empty")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.png").write_bytes(files[0])
    write_tar(tmp_path / "mixed" / "a.tar", files[:2])
    assert "several kinds (pictures, tar)" in error(tmp_path / "mixed")
    assert "no file is called like this" in error(tmp_path / "nothing*.png")
    assert "--split is for data sets" in error(f"{folder}/**/*.png", "--split", "val", code=2)
    assert "--column is for" in error(folder, "--column", "x", code=2)
    for name, text in (("a.zip", "not a zip"), ("a.tar", "not a whole tar"), ("a.parquet", "not a Parquet file")):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        assert text in error(tmp_path / name)
    whole = write_tar(tmp_path / "whole.tar", files).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    assert "not a whole tar" in error(tmp_path / "cut.tar")
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for name in ("k.left.png", "k.right.png"):
            member = tarfile.TarInfo(name)
            member.size = len(files[0])
            archive.addfile(member, io.BytesIO(files[0]))
    assert "two pictures of the key 'k'" in error(tmp_path / "twice.tar")
    (tmp_path / "list.csv").write_text("a,b\nx,y\n")
    assert "Name it with --column; it has a, b" in error(tmp_path / "list.csv")
    assert "no column 'c'" in error(tmp_path / "list.csv", "--column", "c")
    assert "x: No such file" in error(tmp_path / "list.csv", "--column", "a")
    (tmp_path / "gap.csv").write_text("path\n" + f"{folder}/slide9/tile0.png\n" + '""\n')
    assert "line 3 has no path" in error(tmp_path / "gap.csv")
    (tmp_path / "headless.csv").write_text("a.png\nb.png\n")
    assert "line 1 names a picture" in error(tmp_path / "headless.csv")
    (tmp_path / "long.csv").write_text("path\n" + "x" * 200_000 + "\n")
    assert "line 2 is no CSV" in error(tmp_path / "long.csv")
    (tmp_path / "empty.csv").write_text("path\n")
    assert "holds no images" in error(tmp_path / "empty.csv")
    (tmp_path / "none.parquet").unlink(missing_ok=True)
    parquet.write_table(pyarrow.table({"label": [1, 2]}), tmp_path / "none.parquet")
    assert "which column" in error(tmp_path / "none.parquet")


def test_images_that_cannot_be_read(
    command: Command, sample_model: Path, tmp_path: Path, files: list[bytes], expected: str
) -> None:
    """They end the command, are left out with their numbers, or get a class; each is named."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index, content in enumerate(files):
        broken = {5: b"garbage", 7: b"", 9: content[: len(content) // 2]}
        (folder / f"t{index}.png").write_bytes(broken.get(index, content))
    out = tmp_path / "out.csv"
    result = command("xscore", sample_model, folder, "-o", out)
    assert result.code == 1 and "t5.png" in result.error and "--on-error skip" in result.error
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    result = command("xscore", sample_model, folder, "-o", out, "--on-error", "skip")
    assert result.code == 0 and "3 of 60 images could not be read" in result.out and "out.errors.csv" in result.out
    lines = expected.splitlines()
    assert out.read_text().splitlines() == [line for line in lines if line.split(",")[0] not in ("5", "7", "9")]
    with (tmp_path / "out.errors.csv").open() as file:
        named = [(line["ID"], line["NAME"]) for line in csv.DictReader(file)]
    assert named == [("5", "t5.png"), ("7", "t7.png"), ("9", "t9.png")]
    again = ("xscore", sample_model, folder, "-o", out, "--overwrite", "--on-error", "class=4")
    assert command(*again, "--probabilities").code == 0
    given = list(csv.reader(out.read_text().splitlines()))[1:]
    assert [row[1] for row in given if row[0] in ("5", "7", "9")] == ["4"] * 3 and given[5][2:] == [""] * 9
    assert [row[1] for row in given if row[0] not in ("5", "7", "9")] == [
        line.split(",")[1] for line in lines[1:] if line.split(",")[0] not in ("5", "7", "9")
    ]
    for index in (5, 7, 9):  # mended, so that nothing is left to say
        (folder / f"t{index}.png").write_bytes(files[index])
    assert command(*again).code == 0 and out.read_text() == expected and not (tmp_path / "out.errors.csv").exists()
    (tmp_path / "out.errors.csv").write_text("notes of mine")
    result = command(*again)
    assert result.code == 1 and "is not of xscore" in result.error
    assert (tmp_path / "out.errors.csv").read_text() == "notes of mine"
    for wrong in ("class=9", "class=x", "ignore", "class=-1"):
        result = command("xscore", sample_model, folder, "-o", tmp_path / "no.csv", "--on-error", wrong)
        assert result.code == 2 and "--on-error" in result.error


def test_what_is_no_file_is_not_waited_for(command: Command, sample_model: Path, tmp_path: Path) -> None:
    """A pipe, a folder with a picture's name in a list, a link to nowhere, a loop of links."""
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    arguments = ("-o", tmp_path / "o.csv", "--on-error", "skip", "--overwrite")
    assert command("xscore", sample_model, tmp_path / "in", *arguments).code == 0
    assert ids(tmp_path / "o.errors.csv") == ["0", "1"] and ids(tmp_path / "o.csv") == []
    (tmp_path / "list.csv").write_text("path\nin\n/dev/zero\n")
    assert command("xscore", sample_model, tmp_path / "list.csv", *arguments).code == 0
    assert ids(tmp_path / "o.errors.csv") == ["0", "1"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_is_scored_whole_or_not_at_all(
    command: Command, sample_model: Path, tmp_path: Path, files: list[bytes], mode: str
) -> None:
    """Cut at a header, within one, at the end marker; one header damaged; two tars behind each other."""
    content = write_tar(tmp_path / "whole.tar", files[:20]).read_bytes()
    header = content.index(b"a/0010.seg.png")
    damaged = bytearray(content)
    damaged[header] ^= 1
    end = content.index(b"a/0019.cls") + 1024
    forms = {"cut": content[:header], "within": content[: header + 300], "no end": content[:end], "two": 2 * content}
    for name, bad in {**forms, "damaged": bytes(damaged)}.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(gzip.compress(bad) if mode == "w:gz" else bad)
        result = command("xscore", sample_model, path, "-o", tmp_path / "out.csv", "--on-error", "skip")
        assert result.code == 1 and not (tmp_path / "out.csv").exists(), name
        assert ("behind its end" if name == "two" else "not a whole tar") in result.error, name


def test_a_pattern_has_one_order_and_all_its_numbers(
    command: Command, sample_model: Path, tmp_path: Path, files: list[bytes]
) -> None:
    names = ["t01.png", "t1.png", "t001.png", "t2.png", "t02.png"]
    for name, content in zip(names, files, strict=False):
        (tmp_path / name).write_bytes(content)
    assert [Path(name).name for name, _ in files_of(f"{tmp_path}/t*.png")] == [
        *("t001.png", "t01.png", "t1.png", "t02.png", "t2.png")
    ]
    result = command("xscore", sample_model, f"{tmp_path}/t{{1..3}}.png", "-o", tmp_path / "out.csv")
    assert result.code == 1 and "t3.png: no file is called like this" in result.error


def test_no_output_replaces_what_is_read(
    command: Command, sample_model: Path, tmp_path: Path, files: list[bytes]
) -> None:
    for name in ("a", "b"):
        parquet.write_table(pyarrow.table({"image": files[:3]}), tmp_path / f"{name}.parquet")
    before = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "x.errors.csv").write_text("ID,NAME,ERROR\n")
    for data, out in ((f"{tmp_path}/*.parquet", "b.parquet"), (tmp_path / "x.errors.csv", "x.csv")):
        result = command("xscore", sample_model, data, "-o", tmp_path / out, "--overwrite")
        assert result.code == 1 and "is read by this command" in result.error
    assert (tmp_path / "b.parquet").read_bytes() == before and (tmp_path / "x.errors.csv").exists()


def test_loops_of_links_end(command: Command, sample_model: Path, tmp_path: Path, files: list[bytes]) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.png", "deep/c.png", "deep/.hidden.png")):
        (tmp_path / "in" / name).write_bytes(files[index])
    for name in ("x", "y"):
        (tmp_path / "in" / name).symlink_to(".")
    found = {pattern: [name for name, _ in files_of(f"{tmp_path}/{pattern}")] for pattern in ("in/**/*.png", "**/c.*")}
    assert [Path(name).name for name in found["in/**/*.png"]] == ["a.png", "b.png", "c.png"]
    assert found["**/c.*"] == [f"{tmp_path}/in/deep/c.png"]
    assert len(files_of(f"{tmp_path}/in/**")) == 3 and len(files_of(f"{tmp_path}/i?/**/deep/**/*.png")) == 1


def test_errors_beside_the_standard_output_and_classes_without_ranks(
    command: Command, sample_model: Path, tmp_path: Path, files: list[bytes]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_bytes(files[0])
    (tmp_path / "in" / "1.png").write_bytes(b"broken")
    result = command("xscore", sample_model, tmp_path / "in", "-o", "-", "--on-error", "skip")
    assert result.code == 0 and "-: 1 predictions" in result.err and "1 of 2 images" in result.err
    assert "1.png: no image" in result.err and "errors.csv" not in result.err
    os.mkfifo(tmp_path / "o.errors.csv")
    result = command("xscore", sample_model, tmp_path / "in", "-o", tmp_path / "o.csv", "--on-error", "class=5")
    assert result.code == 1 and "o.errors.csv: exists already" in result.error
    (tmp_path / "o.errors.csv").unlink()
    options = ("--on-error", "class=5", "--top", 2)
    assert command("xscore", sample_model, tmp_path / "in", "-o", tmp_path / "o.csv", *options).code == 0
    assert (tmp_path / "o.csv").read_text().splitlines()[2] == "1,5,,-1,"


def test_tables_with_numbers_as_names_and_paths_without_bytes(
    command: Command, sample_model: Path, tmp_path: Path, files: list[bytes]
) -> None:
    parquet.write_table(pyarrow.table({"image": files[:2], "id": [0, 7]}), tmp_path / "a.parquet")
    assert (
        command("xscore", sample_model, tmp_path / "a.parquet", "-o", tmp_path / "a.csv", "--id", "filename").code == 0
    )
    assert ids(tmp_path / "a.csv") == ["0", "7"]
    (tmp_path / "t.png").write_bytes(files[2])
    rows = [{"bytes": None, "path": "t.png"}, {"bytes": files[3], "path": "u.png"}]
    column = pyarrow.array(rows, pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
    parquet.write_table(pyarrow.table({"image": column}), tmp_path / "b.parquet")
    assert (
        command("xscore", sample_model, tmp_path / "b.parquet", "-o", tmp_path / "b.csv", "--id", "filename").code == 0
    )
    assert ids(tmp_path / "b.csv") == ["t.png", "u.png"]


def test_lists_with_odd_lines(command: Command, sample_model: Path, tmp_path: Path, files: list[bytes]) -> None:
    """Excel's byte order mark, quotes, a line break within a cell, empty lines, a home folder."""
    (tmp_path / "a, b.png").write_bytes(files[0])
    (tmp_path / "list.csv").write_text('\ufeffnote,path\r\n"two\nlines","a, b.png"\r\n\r\nx,~missing.png\r\n')
    result = command("xscore", sample_model, tmp_path / "list.csv", "-o", tmp_path / "o.csv", "--on-error", "class=1")
    assert result.code == 0, result.err
    assert len(ids(tmp_path / "o.csv")) == 2 and ids(tmp_path / "o.errors.csv") == ["1"]


def test_archives_with_broken_members(command: Command, sample_model: Path, tmp_path: Path, files: list[bytes]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.png", files[0])
        archive.writestr("1.png", b"x" * 100)
        archive.writestr("2.png", files[2])
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(files[2]) + 40] ^= 1  # the checksum of its member is wrong now
    (tmp_path / "a.zip").write_bytes(content)
    assert command("xscore", sample_model, tmp_path / "a.zip", "-o", tmp_path / "o.csv", "--on-error", "skip").code == 0
    assert ids(tmp_path / "o.csv") == ["0"] and ids(tmp_path / "o.errors.csv") == ["1", "2"]


def test_training_rows_are_counted_in_any_form(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    """As the only sign, since predictions are written in any case."""
    train = read_npz(sample).splits["train"].images[:40]
    np.save(tmp_path / "train.npy", train)
    (tmp_path / "in").mkdir()
    for index, image in enumerate(train):
        Image.fromarray(image).save(tmp_path / "in" / f"{index}.png")
    for data in (tmp_path / "train.npy", tmp_path / "in"):
        result = command("xscore", sample_model, data, "-o", tmp_path / "out.csv", "--overwrite")
        assert "trained on 40 of these 40 images" in result.out
    result = command("xscore", sample_model, sample, "-o", tmp_path / "test.csv")
    assert "trained on" not in result.out


def test_a_divided_folder_is_still_a_data_set(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    test, names = read_npz(sample).splits["test"], Predictor(sample_model).card.classes
    for split in ("train", "test"):
        for index in range(18):
            path = tmp_path / "data" / split / names[test.labels[index]] / f"{index}.png"  # type: ignore[index]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(test.images[index]).save(path)
    result = command("xscore", sample_model, tmp_path / "data", "-o", tmp_path / "out.csv")
    assert "18 predictions, test split, official protocol" in result.out, result.err
    result = command("xscore", sample_model, tmp_path / "data", "-o", tmp_path / "all.csv", "--split", "all")
    assert "36 predictions" in result.out
    (tmp_path / "data" / "slide 7").mkdir()  # not a data set any more, but a folder of pictures
    result = command("xscore", sample_model, tmp_path / "data", "-o", tmp_path / "more.csv")
    assert "36 predictions" in result.out and "split" not in result.out
