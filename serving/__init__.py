"""Serving: the exported file, its card, predictions over HTTP and as CSV. Nothing here loads torch."""
