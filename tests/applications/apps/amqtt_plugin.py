"""A plugin of amqtt's broker: whether one message may pass is known only when another one has come."""

from __future__ import annotations

from amqtt.contexts import Action
from amqtt.plugins.base import BaseTopicPlugin
from amqtt.session import Session
from blocking import shelf


class Blocks(BaseTopicPlugin):
    """Is asked about each message."""

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        if action == Action.PUBLISH:
            if topic == "take":
                shelf.get()
            elif topic == "put":
                shelf.put("word")
        return True
