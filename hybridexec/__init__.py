"""hybridexec: scheduler activations for asyncio.  The public names, and nothing else.

(To pytest, whose plugin comes along, and which may find this imported already: PYTEST_DONT_REWRITE.)
"""

import sys

if not hasattr(sys, "monitoring"):
    raise ImportError(
        "hybridexec's detector needs sys.monitoring (PEP 669), which this interpreter does not have: "
        "use CPython 3.12 or later, or keep this program on asyncio's own loop"
    )


from .config import Config
from .errors import BlockingCallError, DetectorUnavailableError, ExecutorFullError, WrongEnvironmentError
from .executor import ExecutorStats, HybridExecutor, UserThread, UserThreadInfo, UserThreadState
from .loop.awaiting import block_on
from .loop.loop import HybridLoop
from .observing.stats import Stats
from .observing.upcalls import CallSite, Detection, Instrument, Upcall, UpcallKind
from .protocol.lwp import LwpState
from .reactions.regions import LwpInfo, blocking, bound, current_lwp, pinned, register_blocking
from .runner import new_event_loop, observe_event_loop, raise_event_loop, run

__version__ = "0.1.0"

__all__ = [
    "BlockingCallError",
    "CallSite",
    "Config",
    "Detection",
    "DetectorUnavailableError",
    "ExecutorFullError",
    "ExecutorStats",
    "HybridExecutor",
    "HybridLoop",
    "Instrument",
    "LwpInfo",
    "LwpState",
    "Stats",
    "Upcall",
    "UpcallKind",
    "UserThread",
    "UserThreadInfo",
    "UserThreadState",
    "WrongEnvironmentError",
    "__version__",
    "block_on",
    "blocking",
    "bound",
    "current_lwp",
    "new_event_loop",
    "observe_event_loop",
    "pinned",
    "raise_event_loop",
    "register_blocking",
    "run",
]
