"""Encoded images in, pixels out, and heatmaps drawn over them."""
