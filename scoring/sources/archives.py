"""Pictures inside a zip or a tar as a source, read without unpacking; a tar may be a shard of WebDataset."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scoring.sources.source import MAX_FILE, SUFFIXES, ImageBytes, ImageFile, Part, Shape, Source, images_a_part, stamp
from serving.model.predictor import MAX_RUN
from xtrain.data.folders import natural_path
from xtrain.errors import DataError

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # gzip, bzip2, xz
PART_FILE_BYTES = 32 * 1024 * 1024  # of the files of a part, however small the model's images are


@dataclass(frozen=True)
class ZipShard:
    """Some members of a zip."""

    name: str
    identity: str
    path: Path
    members: Sequence[str]
    shape: Shape

    @property
    def rows(self) -> int:
        """Number of pictures."""
        return len(self.members)

    def parts(self) -> Iterator[Part]:
        """Yield the pictures in order; a member that cannot be read is an error of that picture.

        Raises:
            DataError: the zip was changed.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield from in_parts((ImageBytes(name, _read(archive, name)) for name in self.members), self.shape)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path}: cannot be read ({error}); fetch it again") from error


@dataclass(frozen=True)
class TarShard:
    """A tar, compressed or not, which is read from its start to its end."""

    name: str
    identity: str
    path: Path
    shape: Shape
    rows: None = None

    def parts(self) -> Iterator[Part]:
        """Yield the pictures in order, called by their keys: the path up to the first dot of the file's name.

        Raises:
            DataError: the tar is damaged, or two pictures have one key.
        """
        return in_parts(self._pictures(), self.shape)

    def _pictures(self) -> Iterator[ImageBytes]:
        before = None
        try:
            with _open_tar(self.path) as archive:
                for member in archive:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                    if not member.isfile() or not _is_picture(member.name):
                        continue
                    key = _key(member.name)
                    if key == before:
                        raise DataError(
                            f"{self.path}: holds two pictures of the key {key!r}; a key is one image, so give each "
                            "file a name of its own before its first dot"
                        )
                    before = key
                    file = archive.extractfile(member)
                    yield ImageBytes(key, file.read(MAX_FILE + 1) if file else b"")
                rest = archive.fileobj
                while block := rest.read(1 << 16) if rest else b"":
                    if block.count(0) < len(block):
                        raise DataError(f"{self.path}: holds more behind its end, such as another tar; split it")
        except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{self.path}: not a whole tar ({error}); fetch it again") from error


def zip_source(path: Path, shape: Shape, shard_rows: int) -> Source:
    """Return the pictures of a zip in natural order.

    Args:
        path: the zip.
        shape: (H, W, C) of the model's images.
        shard_rows: pictures of a shard.

    Raises:
        DataError: not a zip, or one without pictures.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist() if _is_picture(info.filename)}
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a zip that can be read ({error}); fetch it again") from error
    names = sorted(infos, key=natural_path)
    shards = []
    for start in range(0, len(names), shard_rows):
        members = names[start : start + shard_rows]
        identity = "\n".join(f"{name} {infos[name].CRC:08x} {infos[name].file_size}" for name in members)
        shards.append(ZipShard(f"{path.name}: {members[0]} to {members[-1]}", identity, path, members, shape))
    return Source(shards, has_names=True)


def tar_shard(path: Path, shape: Shape) -> TarShard:
    """Return a tar as one shard.

    Raises:
        DataError: no such file.
    """
    try:
        return TarShard(path.name, stamp(path), path, shape)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name a tar") from error


def in_parts(pictures: Iterator[ImageBytes | ImageFile], shape: Shape) -> Iterator[Part]:
    """Yield pictures in parts that are bounded by the pixels that they become and by the bytes of their files."""
    size, part, part_bytes = images_a_part(shape, MAX_RUN), list[ImageBytes | ImageFile](), 0
    for picture in pictures:
        part.append(picture)
        part_bytes += len(picture.content) if isinstance(picture, ImageBytes) else 0
        if len(part) == size or part_bytes >= PART_FILE_BYTES:
            yield Part(part)
            part, part_bytes = [], 0
    if part:
        yield Part(part)


class _CheckedHeader(tarfile.TarInfo):
    """A member's header; where one is damaged or missing, tarfile would end as if the tar did."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_CheckedHeader":
        """Read a header."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]  # the block of zeros at the end
                raise
            raise tarfile.ReadError(str(error)) from error


def _open_tar(path: Path) -> tarfile.TarFile:
    """Open a tar to be read forward; one that is compressed as a stream, in which every step back starts anew."""
    with open(path, "rb") as file:
        is_compressed = file.read(6).startswith(COMPRESSED)
    return tarfile.open(path, "r|*" if is_compressed else "r:", tarinfo=_CheckedHeader)


def _is_picture(name: str) -> bool:
    """Return whether a member is a picture by its name; hidden ones, and macOS's companions, are none."""
    if not name.lower().endswith(SUFFIXES):
        return False
    return not any(part == "__MACOSX" or part.startswith(".") for part in name.removeprefix("./").split("/"))


def _key(name: str) -> str:
    folder, slash, file = name.removeprefix("./").rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the bytes of a member; of one that is damaged or encrypted none, which no decoder takes."""
    try:
        with archive.open(name) as file:
            return file.read(MAX_FILE + 1)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, NotImplementedError):
        return b""
