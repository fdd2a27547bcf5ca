"""Files of a few kilobytes or megabytes that cost a careless decoder gigabytes or minutes; each is built here."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

MIB = 1024 * 1024


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def palette_png(side: int) -> bytes:
    """Return a PNG of one colour with a palette and transparency: kilobytes that became 13 bytes a pixel."""
    row = zlib.compressobj(9)
    line = bytes(side + 1)
    packed = b"".join([*(row.compress(line) for _ in range(side)), row.flush()])
    header = struct.pack(">IIBBBBB", side, side, 8, 3, 0, 0, 0)
    colours = png_chunk(b"PLTE", bytes(range(256)) * 3) + png_chunk(b"tRNS", bytes(range(256)))
    body = png_chunk(b"IHDR", header) + colours + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def grey_png(side: int, bits: int = 16) -> bytes:
    """Return a PNG of one grey of 16 bits, whose conversion to 8 took six times its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side), 2**bits - 1, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def png_of_empty_chunks(length: int) -> bytes:
    """Return a PNG with that many bytes of empty chunks, each of which Pillow reads in Python."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 2, 0, 0, 0))
    empty = png_chunk(b"abCd", b"")
    return b"\x89PNG\r\n\x1a\n" + header + empty * (length // len(empty))


def png_of_compressed_text(texts: int) -> bytes:
    """Return a PNG with that many compressed texts of 1 MB each."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 2, 0, 0, 0))
    text = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(MIB - 1), 9))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(28 * (28 * 3 + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + text * texts + pixels + png_chunk(b"IEND", b"")


def jpeg(side: int, **options: object) -> bytes:
    """Return a JPEG of one grey."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def jpeg_of_empty_segments(length: int) -> bytes:
    """Return a JPEG that begins with that many bytes of empty comments."""
    whole = jpeg(28)
    return whole[:2] + b"\xff\xfe\x00\x02" * (length // 4) + whole[2:]


def jpeg_of_fill_bytes(length: int) -> bytes:
    """Return a JPEG that begins with that many fill bytes."""
    whole = jpeg(28)
    return whole[:2] + b"\xff" * length + whole[2:]


def jpeg_of_many_scans(length: int, side: int = 28) -> bytes:
    """Return a progressive JPEG whose last scan is repeated up to that many bytes."""
    whole = jpeg(side, progressive=True)
    last = whole.rindex(b"\xff\xda")
    scan = whole[last:-2]
    return whole[:last] + scan * (length // len(scan)) + whole[-2:]


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG of side x side pixels with that many scans, each over all of them."""
    whole = jpeg(side, progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * (scans - whole.count(b"\xff\xda") + 1) + whole[-2:]


def tiff_of_one_tile(tile: int, side: int = 28) -> bytes:
    """Return a TIFF of side x side pixels in one tile of tile x tile, packed with deflate."""
    packing = zlib.compressobj(9)
    packed = b"".join([*(packing.compress(bytes(tile)) for _ in range(tile)), packing.flush()])
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 0, 325: len(packed)}
    start = 8 + 2 + 12 * len(tags) + 4
    tags[324] = start
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed


def tiff_of_pages(pages: int) -> bytes:
    """Return a TIFF whose pages are so many directories of the same pixels."""
    tags = {256: 28, 257: 28, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 28, 279: 784}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    size = 2 + len(entries) + 4
    first = 8 + 784
    directories = [
        struct.pack("<H", len(tags)) + entries + struct.pack("<I", first + (page + 1) * size if page + 1 < pages else 0)
        for page in range(pages)
    ]
    return b"II*\0" + struct.pack("<I", first) + bytes(784) + b"".join(directories)


def tiff_of_tags(tags: int) -> bytes:
    """Return a TIFF with so many tags, each of which points at all the rest of the file."""
    start = 8 + 2 + 12 * tags + 4
    entries = b"".join(struct.pack("<HHII", 1000 + tag, 1, 8 * MIB, start) for tag in range(tags))
    return b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4) + bytes(8 * MIB)


def run_length_bmp(side: int) -> bytes:
    """Return a BMP of side x side pixels in runs of one, which Pillow decodes in Python."""
    pixels = b"\x01\x07" * (side * side)
    palette = bytes(1024)
    offset = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + palette + pixels


def empty_lists(length: int) -> bytes:
    """Return JSON of that many bytes of empty lists, each of which Python keeps in 64."""
    return b'{"images": [' + b",".join([b"[]"] * (length // 3)) + b"]}"


def archive_of_entries(entries: int) -> bytes:
    """Return a zip whose directory lists so many files."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, entries & 0xFFFF, entries & 0xFFFF, len(entry) * entries, 0, 0)
    return entry * entries + end
