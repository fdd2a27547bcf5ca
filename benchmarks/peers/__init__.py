"""What a user would serve the same file with instead; each module is a server that `benchmarks.serving` starts."""
