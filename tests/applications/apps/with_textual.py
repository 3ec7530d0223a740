"""An application for the terminal, by Textual: one key blocks until another one is pressed."""

from __future__ import annotations

import asyncio

from blocking import shelf
from textual.app import App, ComposeResult
from textual.widgets import Static


class Shelf(App[None]):
    """`t` takes what `p` puts; `q` ends."""

    taken = 0

    def compose(self) -> ComposeResult:
        yield Static(id="said")

    def on_mount(self) -> None:
        self.say("ready")

    def say(self, text: str) -> None:
        self.query_one("#said", Static).update(text)

    async def take(self) -> None:
        await asyncio.sleep(0)  # Textual starts its workers eagerly: up to here it is the application that would block
        shelf.get()
        self.taken += 1
        self.say(f"{self.taken} taken")

    def key_t(self) -> None:
        self.run_worker(self.take())

    def key_p(self) -> None:
        shelf.put("word")

    def key_q(self) -> None:
        shelf.put("word")
        self.exit()


if __name__ == "__main__":
    Shelf().run()
