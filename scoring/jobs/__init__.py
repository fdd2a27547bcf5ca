"""Scoring in shards: each one a file of its own that is written once, by whichever process, and merged at the end."""
