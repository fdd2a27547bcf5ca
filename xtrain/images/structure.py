"""How an image file is built: its chunks, segments and scans, counted before a decoder follows them.

Pillow walks a file's pieces in Python, and libjpeg goes over all pixels once a scan: megabytes of empty pieces took
nine seconds. Counting them here takes milliseconds. What is checked on the opened image is in `decoding`.
"""

from collections.abc import Iterator

from xtrain.images.errors import UnsupportedImage

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MEDIA_TYPES = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",  # not registered, and what many clients send
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/tif": "TIFF",
}
PNG, JPEG, RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF"
TIFF = {b"II": "little", b"MM": "big"}
# Far above what encoders write: a PNG of 16 MB in libpng's chunks of 8 KiB has 2,000, a progressive JPEG 10 scans.
MAX_PIECES, MAX_SCANS, MAX_TAGS = 10_000, 64, 4096
MAX_TEXTS = 16  # Pillow unpacks up to 1 MB of each
PACKED_TEXTS = (b"zTXt", b"iTXt")
# Of a simple image; decoded sooner than another process takes it over.
SIMPLE_BYTES, SIMPLE_SIDE, SIMPLE_PIECES = 16 * 1024, 64, 64
SIMPLE_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs", b"tEXt"}
# JPEG's markers: baseline frame, Huffman tables, quantisation tables, restart interval, JFIF, Adobe, comment.
BASELINE = 0xC0
SIMPLE_SEGMENTS = {BASELINE, 0xC4, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE}
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


def check_structure(content: bytes) -> None:
    """Refuse a file in more pieces than any encoder writes.

    Raises:
        UnsupportedImage: with the kind of piece.
    """
    if content.startswith(PNG):
        if len(content) > SIMPLE_BYTES:  # a smaller one has not the room for so many
            _refuse_above(MAX_PIECES, _chunks(content), "chunks")
            _refuse_above(MAX_TEXTS, (kind for kind, _ in _chunks(content) if kind in PACKED_TEXTS), "compressed texts")
    elif content.startswith(JPEG):
        _refuse_above(MAX_PIECES, _segments(content), "segments")
        if content.count(b"\xff\xda") > MAX_SCANS:
            raise UnsupportedImage(f"the JPEG has more than {MAX_SCANS} scans; save it again")
    elif content[:2] in TIFF:
        _check_tags(content)


def is_simple(content: bytes) -> bool:
    """Return whether the file is a PNG, JPEG or WebP that any decoder reads at once and in little memory.

    Few bytes, few pixels, and only such parts as cannot hide more: no compressed text or profile, no EXIF, no second
    scan or frame.
    """
    if len(content) > SIMPLE_BYTES:
        return False
    if content.startswith(PNG):
        return _is_simple_png(content)
    if content.startswith(JPEG):
        return _is_simple_jpeg(content)
    return content.startswith(RIFF) and _is_simple_webp(content)


def _refuse_above(limit: int, pieces: Iterator[object], name: str) -> None:
    for count, _ in enumerate(pieces, 1):
        if count > limit:
            raise UnsupportedImage(f"the file has more than {limit} {name}; save it again")


def _chunks(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield type and position of a PNG's chunks."""
    at = len(PNG)
    while at + 8 <= len(content):
        kind = content[at + 4 : at + 8]
        yield kind, at
        if kind == b"IEND":
            return
        at += 12 + int.from_bytes(content[at : at + 4])


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield marker and position of a JPEG's segments up to its first scan; fill bytes count as segments."""
    at = len(JPEG)
    while at + 2 <= len(content):
        marker = content[at + 1] if content[at] == 0xFF else 0
        yield marker, at
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            return
        if marker in (0, 0xFF):  # Pillow looks for the next marker byte by byte
            at += 1
        elif 0xD0 <= marker <= 0xD8 or marker == 0x01:  # those without a length
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4]))


def _check_tags(content: bytes) -> None:
    """Refuse a TIFF whose first directory has more tags than there are kinds of.

    Raises:
        UnsupportedImage: as said.
    """
    order = TIFF[content[:2]]

    def number(at: int, size: int) -> int:
        return int.from_bytes(content[at : at + size], "little" if order == "little" else "big")

    is_big = number(2, 2) == 43
    tags = number(number(8, 8), 8) if is_big else number(number(4, 4), 2)
    if tags > MAX_TAGS:
        raise UnsupportedImage(f"the TIFF has more than {MAX_TAGS} tags; save it again")


def _is_small(width: int, height: int) -> bool:
    return 0 < width <= SIMPLE_SIDE and 0 < height <= SIMPLE_SIDE


def _is_simple_png(content: bytes) -> bool:
    for count, (kind, _) in enumerate(_chunks(content), 1):
        if kind not in SIMPLE_CHUNKS or count > SIMPLE_PIECES or (kind == b"IHDR") != (count == 1):
            return False
    return _is_small(int.from_bytes(content[16:20]), int.from_bytes(content[20:24]))


def _is_simple_jpeg(content: bytes) -> bool:
    is_small = False
    for count, (marker, at) in enumerate(_segments(content), 1):
        if marker == START_OF_SCAN:
            return is_small and content.count(b"\xff\xda") == 1
        if marker not in SIMPLE_SEGMENTS or count > SIMPLE_PIECES:
            return False
        if marker == BASELINE:
            is_small = _is_small(int.from_bytes(content[at + 7 : at + 9]), int.from_bytes(content[at + 5 : at + 7]))
    return False


def _is_simple_webp(content: bytes) -> bool:
    """Return whether it is one lossy or lossless frame and nothing else (RFC 9649, sections 2.5 to 2.7)."""
    if content[8:12] != b"WEBP" or int.from_bytes(content[4:8], "little") + 8 != len(content):
        return False
    length = int.from_bytes(content[16:20], "little")
    if 20 + length + length % 2 != len(content):
        return False
    if content[12:16] == b"VP8 ":
        return _is_small(*(int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (26, 28)))
    if content[12:16] == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return _is_small((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return False
