"""Platform: the operating system and CPython's insides.  Knows nothing of a loop."""
