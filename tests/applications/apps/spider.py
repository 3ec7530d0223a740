"""A spider for scrapy: the callback of one page blocks, in a call that the test answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import scrapy
from blocking import ask_backend


class Spider(scrapy.Spider):
    """Visits the pages that the first one names."""

    name = "spider"
    start_urls = (os.environ["SITE"],)

    def parse(self, response: Any) -> Iterator[Any]:
        yield from response.follow_all(css="a", callback=self.parse_page)

    def parse_page(self, response: Any) -> Iterator[Any]:
        name = response.css("h1::text").get()
        answer = ask_backend() if name == "blocks" else ""
        yield {"name": name, "answer": answer}
        yield from response.follow_all(css="a", callback=self.parse_page)
