"""Reactions: what a loop does about a step that blocks."""
