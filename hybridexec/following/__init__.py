"""What follows the loop from thread to thread: everything that asyncio's code has of "the" thread of its loop.

``following.py`` is what the protocol tells; each of the others is about one thing.  Who a thread is to the program
(``identity.py``) and how CPython's structures are read (``platform/memory.py``) is what all of the package builds on.
"""
