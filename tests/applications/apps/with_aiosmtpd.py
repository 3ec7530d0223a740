"""A handler of mails: one that asks for a word blocks until another mail brings it."""

from __future__ import annotations

from email import message_from_bytes
from typing import Any

from blocking import shelf


class Handler:
    """What ``python -m aiosmtpd --class`` takes."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        subject = str(message_from_bytes(envelope.content)["Subject"])
        verb, _, word = subject.partition(" ")
        if verb == "take":
            return f"250 {shelf.get()}"
        if verb == "put":
            shelf.put(word)
        return f"250 {verb}"
