"""Faults: what becomes of a program if the system refuses, fails, stops or interrupts it."""
