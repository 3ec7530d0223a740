"""Applications that people run, unchanged, on a HybridLoop.

Each test starts one under ``hybridexec run``, with something that blocks where its users would put it.  What it waits
for comes from the test, once the application has served others meanwhile, or from the application's own next request:
a loop that stood still would stand still for ever.  ``docs/applications.md`` is the table.
"""
