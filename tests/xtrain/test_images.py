import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xtrain.data.datasets import read_npz
from xtrain.images import ImageTooLarge, UnreadableImage, UnsupportedImage, convert_image, decode

RGB = (28, 28, 3)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def tile(data_dir: Path) -> Image.Image:
    with Image.open(data_dir / "tiles" / "LYM-TCGA-MDKEPPHR.png") as image:
        return image.convert("RGB")


def test_tiles_become_the_very_rows_of_the_data_set(data_dir: Path, sample: Path) -> None:
    identical = json.loads((data_dir / "tiles" / "labels.json").read_text())["identical_to_sample_test_row"]
    rows = read_npz(sample).splits["test"].images
    assert len(identical) == 3
    for name, row in identical.items():
        assert (decode((data_dir / "tiles" / name).read_bytes(), RGB) == rows[row]).all()


def test_every_tile_decodes(data_dir: Path) -> None:
    tiles = [path for path in (data_dir / "tiles").iterdir() if path.suffix in (".png", ".tif")]
    assert len(tiles) >= 13
    assert all(decode(path.read_bytes(), RGB).shape == RGB for path in tiles)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_agree(tile: Image.Image, format: str) -> None:
    small = tile.resize((28, 28))
    assert (decode(encode(small, format), RGB) == np.asarray(small)).all()


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(tile: Image.Image, format: str) -> None:
    got = decode(encode(tile, format, quality=95), RGB).astype(int)
    assert np.abs(got - decode(encode(tile, "PNG"), RGB)).mean() < 3


def test_exif_orientation_is_applied(tile: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    got = decode(encode(tile, "PNG", exif=exif), RGB)
    assert (got == decode(encode(tile.transpose(Image.Transpose.ROTATE_270), "PNG"), RGB)).all()


def test_colour_models(tile: Image.Image) -> None:
    plain = decode(encode(tile, "PNG"), RGB).astype(int)
    palette = tile.quantize(256)
    assert np.abs(decode(encode(palette, "PNG"), RGB) - plain).mean() < 6
    assert np.abs(decode(encode(tile.convert("CMYK"), "TIFF"), RGB) - plain).mean() < 2
    grey = decode(encode(tile, "PNG"), (28, 28, 1))
    luma = np.asarray(tile.convert("L").resize((28, 28), Image.Resampling.BILINEAR))
    assert (grey[..., 0] == luma).all()
    assert (
        decode(encode(tile.convert("L"), "PNG"), RGB) == decode(encode(tile.convert("L"), "PNG"), (28, 28, 1))
    ).all()


def test_transparency_lies_over_white(tile: Image.Image) -> None:
    clear = tile.copy()
    clear.putalpha(0)
    assert (decode(encode(clear, "PNG"), RGB) == 255).all()
    opaque = tile.copy()
    opaque.putalpha(255)
    assert (decode(encode(opaque, "PNG"), RGB) == decode(encode(tile, "PNG"), RGB)).all()


def test_sixteen_bit_keeps_the_upper_byte(tile: Image.Image) -> None:
    grey = np.asarray(tile.convert("L"), np.uint16)
    deep = Image.fromarray(grey * 256 + 37)
    assert deep.mode == "I;16"
    assert (decode(encode(deep, "PNG"), (28, 28, 1)) == decode(encode(tile.convert("L"), "PNG"), (28, 28, 1))).all()


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_floats_are_refused_whatever_their_range(tile: Image.Image, scale: float) -> None:
    """The same picture, in [0, 255] and in [0, 1], was answered with two classes."""
    pixels = np.asarray(tile.convert("L"), np.float32) * scale
    with pytest.raises(UnsupportedImage, match="floats, whose range the file does not tell; send 8 bits"):
        decode(encode(Image.fromarray(pixels), "TIFF"), RGB)
    with pytest.raises(UnsupportedImage, match="floats"):
        convert_image(Image.fromarray(pixels))


@pytest.mark.parametrize("bits", [1, 8, 10, 12])
def test_sixteen_bits_that_use_fewer_are_refused(tile: Image.Image, bits: int) -> None:
    grey = np.asarray(tile.convert("L"), np.float64) / 255
    for format in ("TIFF", "PNG"):
        content = encode(Image.fromarray((grey * (2**bits - 1)).astype(np.uint16)), format)
        with pytest.raises(UnsupportedImage, match="of 65535, so it uses fewer bits"):
            decode(content, RGB)


def deep_png(values: np.ndarray) -> bytes:
    """An RGB PNG of 16 bits a channel, which Pillow reads and does not write; values (H, W, 3) uint16."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_colours_of_sixteen_bits(tile: Image.Image) -> None:
    """Pillow keeps the upper byte of each channel, so that values up to 255 all become black."""
    pixels = np.asarray(tile, np.uint16)
    assert (decode(deep_png(pixels * 257), RGB) == decode(encode(tile, "PNG"), RGB)).all()
    for scaled in (pixels, pixels // 255, pixels * 16):
        with pytest.raises(UnsupportedImage, match="of 65535, so it uses fewer bits"):
            decode(deep_png(scaled), RGB)


def test_32_bit_integers_are_refused_and_black_is_not(tile: Image.Image) -> None:
    with pytest.raises(UnsupportedImage, match="32-bit integers"):
        decode(encode(Image.fromarray(np.asarray(tile.convert("L"), np.int32) * 256), "TIFF"), RGB)
    assert (decode(encode(Image.fromarray(np.zeros((28, 28), np.uint16)), "PNG"), RGB) == 0).all()


def test_several_frames_are_refused(tile: Image.Image) -> None:
    pages = [tile, tile.transpose(Image.Transpose.ROTATE_90)]
    for format in ("TIFF", "WEBP", "PNG"):
        content = encode(pages[0], format, save_all=True, append_images=pages[1:])
        with pytest.raises(UnsupportedImage, match="several images"):
            decode(content, RGB)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that would decode to width x height pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * min(height, 1000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [6_000, 13_000, 60_000])
def test_bombs_are_refused_before_decoding(side: int) -> None:
    content = bomb(side, side)
    assert len(content) < 100_000
    with pytest.raises(ImageTooLarge):
        decode(content, RGB)


def test_the_pixel_limit_is_inclusive(tile: Image.Image) -> None:
    content = encode(tile, "PNG")
    assert decode(content, RGB, max_pixels=224 * 224).shape == RGB
    with pytest.raises(ImageTooLarge, match="224 x 224 = 50176"):
        decode(content, RGB, max_pixels=224 * 224 - 1)


def test_damage_and_other_formats(tile: Image.Image) -> None:
    content = encode(tile, "PNG")
    for broken in (b"", b"hello", content[:20], content[: len(content) // 2], encode(tile, "GIF"), encode(tile, "PPM")):
        with pytest.raises(UnreadableImage):
            decode(broken, RGB)
