"""Signals: where a program's signal handlers run, and what they raise comes up."""
