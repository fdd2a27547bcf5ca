"""Hostile files: refused in milliseconds, by their structure; and what real encoders write is taken."""

import io
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from benchmarks import hostile
from xtrain.images import ImageTooLarge, UnsupportedImage, decode, decode_image, is_simple, open_image
from xtrain.images.structure import check_structure

RGB = (28, 28, 3)
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: hostile.png_of_empty_chunks(4 * MIB), UnsupportedImage, "more than 10000 chunks"),
        (lambda: hostile.png_of_compressed_text(63), UnsupportedImage, "more than 16 compressed texts"),
        (lambda: hostile.jpeg_of_empty_segments(4 * MIB), UnsupportedImage, "more than 10000 segments"),
        (lambda: hostile.jpeg_of_fill_bytes(4 * MIB), UnsupportedImage, "more than 10000 segments"),
        (lambda: hostile.jpeg_of_many_scans(4 * MIB), UnsupportedImage, "more than 64 scans"),
        (lambda: hostile.tiff_of_one_tile(20_000), ImageTooLarge, "tiles are larger than its picture"),
        (lambda: hostile.tiff_of_pages(20_000), UnsupportedImage, "several images"),
        (lambda: hostile.tiff_of_tags(60_000), UnsupportedImage, "more than 4096 tags"),
        (lambda: hostile.run_length_bmp(1000), UnsupportedImage, "run-length"),
    ],
    ids=["chunks", "texts", "segments", "fill bytes", "scans", "tile", "pages", "tags", "runs"],
)
def test_hostile_files_are_refused_at_once(build: Callable[[], bytes], error: type[Exception], message: str) -> None:
    content = build()
    began = time.process_time()
    with pytest.raises(error, match=message):
        decode(content, RGB)
    assert time.process_time() - began < 0.5
    assert not is_simple(content)


def test_hostile_files_are_what_they_say() -> None:
    """Smaller ones of the same kind decode: they are refused for what they are, not for being broken."""
    assert decode(hostile.palette_png(64), RGB).shape == RGB
    assert decode(hostile.tiff_of_one_tile(32), RGB).shape == RGB
    assert decode(hostile.tiff_of_pages(1), RGB).shape == RGB
    assert decode(hostile.jpeg_of_empty_segments(400), RGB).shape == RGB
    assert decode(hostile.jpeg_of_many_scans(400), RGB).shape == RGB
    assert decode(hostile.png_of_compressed_text(16), RGB).shape == RGB


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_what_encoders_write_has_few_pieces(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8))
    check_structure(encoded(noise, format))
    if format in ("PNG", "JPEG"):
        monkeypatch.setattr(ImageFile, "MAXBLOCK", 8192)
        check_structure(encoded(noise, format, **({"progressive": True} if format == "JPEG" else {})))


def two_headers(image: Image.Image) -> bytes:
    """A PNG that is small at first and of 25 megapixels by its second header, which Pillow takes."""
    content = encoded(image, "PNG")
    large = hostile.png_chunk(b"IHDR", struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0))
    return content[:33] + large + content[33:]


def test_only_small_images_without_extras_are_simple(data_dir: Path) -> None:
    with Image.open(data_dir / "tiles" / "LYM-TCGA-MDKEPPHR.png") as opened:
        tile = opened.convert("RGB")
    small = tile.resize((28, 28))
    exif = Image.Exif()
    exif[0x0112] = 6
    for simple in (
        *(encoded(small, format) for format in ("PNG", "JPEG", "WEBP")),
        encoded(small, "WEBP", lossless=True),
        encoded(small.quantize(16), "PNG"),
        encoded(small.convert("L"), "JPEG"),
        encoded(tile.resize((64, 64)), "JPEG"),
    ):
        assert is_simple(simple)
    for other in (
        encoded(tile, "PNG"),
        encoded(tile.resize((65, 20)), "JPEG"),
        encoded(tile.resize((20, 65)), "WEBP"),
        encoded(small, "TIFF"),
        encoded(small, "BMP"),
        encoded(small, "JPEG", progressive=True),
        *(encoded(small, format, exif=exif) for format in ("PNG", "JPEG", "WEBP")),
        encoded(small, "JPEG", icc_profile=b"x" * 200),
        encoded(small, "PNG") + bytes(20_000),
        two_headers(small),
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8",
        b"RIFF",
    ):
        assert not is_simple(other)
    for cut in range(1, 400, 7):
        for format in ("PNG", "JPEG", "WEBP"):
            is_simple(encoded(small, format)[:cut])


WRITTEN = {  # modes that Pillow writes
    "PNG": ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
}


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize(("format", "mode"), [(format, mode) for format, modes in WRITTEN.items() for mode in modes])
def test_decoding_takes_no_more_than_was_said(format: str, mode: str, turned: int, tmp_path: Path) -> None:
    """Measured as the peak of a process's memory while it decodes 12 megapixels."""
    side = 3500
    if mode == "I;16":
        image = Image.fromarray(np.full((side, side), 60_000, np.uint16))
    else:
        image = Image.new("RGB", (side, side), (200, 90, 130)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turned
    content = encoded(image, format, exif=exif) if turned > 1 else encoded(image, format)
    path = tmp_path / "image"
    path.write_bytes(content)
    program = """
import resource, sys
from xtrain.images import fit, open_image
from PIL import Image
Image.init()
content = open(sys.argv[1], "rb").read()
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with open_image(content) as encoded:
    said, before = encoded.decoding_bytes(), peak()
    fit(encoded.decode(), (28, 28, 3))
    print(said, peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    said, took = map(int, done.stdout.split())
    assert took <= said + 24 * MIB  # blocks of one megapixel in several modes, and what a decoder keeps of its own
    assert said <= 20 * side * side


def test_the_header_alone_is_read_before_the_memory_is_known(data_dir: Path) -> None:
    content = (data_dir / "tiles" / "LYM-TCGA-MDKEPPHR.png").read_bytes()
    with open_image(content) as image:
        assert image.pixels == 224 * 224 and image.decoding_bytes() == 4 * 224 * 224
        assert image.image.tile, "no pixel is decoded yet"
    assert decode_image(content).size == (224, 224)
