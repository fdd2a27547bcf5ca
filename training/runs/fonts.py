"""Fonts for the pictures of a run: class names in any script, or their numbers where no font has the characters."""

from collections.abc import Sequence
from functools import cache

from matplotlib import font_manager, rcParams
from matplotlib.ft2font import FT2Font

PLACEHOLDERS = "Last Resort"  # fonts that draw a box for every character there is


def families(texts: Sequence[str]) -> list[str]:
    """Return font families that together have the characters: the default, and another of this machine if needed."""
    return [name for name, _ in _fonts(texts)]


def drawable_names(names: Sequence[str]) -> list[str]:
    """Return the class names, or all their numbers where a character of one has no font."""
    if _characters(names) <= _available(names):
        return list(names)
    return [str(index) for index in range(len(names))]


def drawable(text: str) -> str:
    """Return the text with `?` for each character that has no font."""
    available = _available([text])
    return "".join(letter if letter.isspace() or ord(letter) in available else "?" for letter in text)


def _fonts(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and file of the fonts to draw with."""
    default = str(rcParams["font.sans-serif"][0])
    fonts = [(default, str(font_manager.findfont(default)))]
    missing = _characters(texts) - _covered(fonts[0][1])
    if missing:
        for entry in font_manager.fontManager.ttflist:
            if PLACEHOLDERS not in entry.name and missing <= _covered(str(entry.fname)):
                fonts.append((entry.name, str(entry.fname)))
                break
    return fonts


def _available(texts: Sequence[str]) -> frozenset[int]:
    return frozenset().union(*(_covered(path) for _, path in _fonts(texts)))


def _characters(texts: Sequence[str]) -> frozenset[int]:
    return frozenset(ord(letter) for text in texts for letter in text if not letter.isspace())


@cache
def _covered(path: str) -> frozenset[int]:
    """Return the code points of a font file; none of one that cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()
