"""Other people's servers, clients and drivers on a HybridLoop, unchanged.

Each test is a row of ``docs/compatibility.md``, by its mark ``compatibility``.  ``make compatibility`` runs them
all and writes that page; ``--check`` writes nothing, and fails where the page is not what the tests say.
"""
