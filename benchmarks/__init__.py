"""Benchmarks: what hybridexec brings, and what it costs, against its peers in turns within one run."""
