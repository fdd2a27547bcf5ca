"""The Open Inference Protocol over gRPC, beside HTTP: the same models, queues, limits, tokens and counters."""
