"""Injecting: what becomes of a program if something raises in the middle of this package, anywhere."""
