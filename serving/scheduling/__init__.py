"""From many requests to few runs: the micro-batcher, the engine around it, and the memory budget."""
