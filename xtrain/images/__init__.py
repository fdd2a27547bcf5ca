"""From a file's bytes to the pixels a model takes: decoded, upright, in its colours, at its native size.

Training from a folder of pictures, scoring and serving decode with these functions, so that a picture is the same
pixels everywhere. Limits are checked on the file's structure and header, before a pixel is decoded, so that a small
file cannot become a large array or hours of work.
"""

from xtrain.images.conversion import convert_image, fit
from xtrain.images.decoding import MAX_PIXELS, EncodedImage, decode, decode_image, open_image, read_image
from xtrain.images.errors import ImageTooLarge, UnreadableImage, UnsupportedImage
from xtrain.images.structure import FORMATS, MEDIA_TYPES, SIMPLE_SIDE, is_simple

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MEDIA_TYPES",
    "SIMPLE_SIDE",
    "EncodedImage",
    "ImageTooLarge",
    "UnreadableImage",
    "UnsupportedImage",
    "convert_image",
    "decode",
    "decode_image",
    "fit",
    "is_simple",
    "open_image",
    "read_image",
]
