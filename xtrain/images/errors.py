"""What is wrong with an image file."""

from xtrain.errors import XtrainError


class UnreadableImage(XtrainError):
    """Bytes that are no image, or a broken one."""


class UnsupportedImage(XtrainError):
    """A format, or a kind of file within it, that is not taken."""


class ImageTooLarge(XtrainError):
    """More pixels, or more memory for decoding them, than an image may take."""
