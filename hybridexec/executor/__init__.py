"""The executor: M user threads over a pool of event loops and LWPs."""

from .executor import HybridExecutor
from .listing import ExecutorStats, UserThreadInfo
from .states import UserThreadState
from .user_thread import UserThread

__all__ = ["ExecutorStats", "HybridExecutor", "UserThread", "UserThreadInfo", "UserThreadState"]
