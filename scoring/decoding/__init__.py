"""Decoding image files in processes of their own, while the model runs."""
