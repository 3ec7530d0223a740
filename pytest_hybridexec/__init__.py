"""The pytest plugin's door: its options and its marker.

This is a package of its own so that pytest, which imports the plugins of all that is installed, does not import
``hybridexec`` into every suite.  The plugin itself is ``hybridexec.pytest_plugin``, and is there if it is asked for.
(PYTEST_DONT_REWRITE: there is nothing to assert here.)
"""

from __future__ import annotations

import pytest

MODES = ("handoff", "observe", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("hybridexec", "asyncio's loops replaced by loops that survive blocking calls")
    group.addoption(
        "--hybridexec",
        action="store_true",
        help="run what runs on asyncio's loops on hybridexec's, and show where tests blocked",
    )
    group.addoption(
        "--hybridexec-mode",
        choices=MODES,
        help="the same in this mode: the loop leaves a step that blocks (handoff, the default), reports it only "
        "(observe), or the test fails (raise)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """The loops are replaced before any code of the suite is imported, which may keep what it gets from asyncio."""
    given = early_config.known_args_namespace
    if given.hybridexec or given.hybridexec_mode:
        from hybridexec.pytest_plugin import Suite

        early_config.pluginmanager.register(Suite(given.hybridexec_mode), "hybridexec-suite")


def pytest_configure(config: pytest.Config) -> None:
    """The marker, which a suite may use without the options, too."""
    config.addinivalue_line(
        "markers",
        "hybridexec(**options): fields of hybridexec.Config for the loops of this test; needs --hybridexec",
    )
