"""The programs that the tests of signals run: one function is one program.  (``playing.py`` runs it.)

They are apart from the tests because signals are the process's: each program needs a main thread of its own.  An
``assert`` that fails ends it with a traceback, which the test shows.
"""
