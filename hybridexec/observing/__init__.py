"""Observing: what is told of a loop: upcalls, figures, the log."""
