"""What every part agrees on."""

__version__ = "0.1.0"
