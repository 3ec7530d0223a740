"""A Django project whose async views block, and use the synchronous ORM."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import django
from asgiref.sync import sync_to_async
from blocking import ask_backend, call_itself, shelf
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import async_only_middleware, sync_only_middleware

FILE = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", ":memory:")}
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {**FILE, "OPTIONS": {"timeout": 60}}},
    MIDDLEWARE=["with_django.asks_itself", *os.environ.get("MIDDLEWARE", "").split()],
    ROOT_URLCONF="with_django",
    SECRET_KEY="secret",
    USE_TZ=True,
)
django.setup()


class Number(models.Model):
    """The test has made its table, and a first row."""

    value = models.IntegerField()

    class Meta:
        app_label = "numbers"
        db_table = "numbers"


type View = Callable[[HttpRequest], Awaitable[HttpResponse]]
type Handler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@async_only_middleware
def asks_itself(get_response: Handler) -> Handler:
    """Blocks before a view, and behind it."""

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        if request.path != "/outer":
            return await get_response(request)
        before = call_itself("/inner")
        response = await get_response(request)
        response["said"] = f"{before} {call_itself('/inner')}"
        return response

    return middleware


@sync_only_middleware
def synchronous_middleware(get_response: Callable[[HttpRequest], HttpResponseBase]) -> object:
    """Has the view called from a thread, and a coroutine of it brought back to the loop."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return get_response(request)

    return middleware


async def outer(request: HttpRequest) -> HttpResponse:
    return HttpResponse("outer " + call_itself("/inner"))


async def inner(request: HttpRequest) -> HttpResponse:
    return HttpResponse("inner")


async def put(request: HttpRequest, word: str) -> HttpResponse:
    shelf.put(word)
    return HttpResponse("put")


async def parts() -> AsyncIterator[str]:
    yield "first "
    yield shelf.get()
    yield " last"


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(parts())


async def backend(request: HttpRequest) -> HttpResponse:
    return HttpResponse(ask_backend())


def take() -> str:
    """What is synchronous stays in threads of asgiref's."""
    return f"{threading.current_thread().name.partition('-')[0]}: {shelf.get()}"


def synchronous(request: HttpRequest) -> HttpResponse:
    return HttpResponse(take())


async def in_a_thread(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await sync_to_async(take)())


async def awaits(request: HttpRequest) -> HttpResponse:
    """Django's own way: the ORM in threads."""
    created = await Number.objects.acreate(value=7)
    call_itself("/counts")
    found = await Number.objects.aget(id=created.id)
    return HttpResponse(found.value)


async def counts(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await Number.objects.acount())


def closes(view: View) -> View:
    """Has the connection closed that a request has of its own: Django sees only to those of threads."""

    @functools.wraps(view)
    async def closing(request: HttpRequest) -> HttpResponse:
        with contextlib.closing(connection):
            return await view(request)

    return closing


holds = asyncio.Event()
waiting = 0


@closes
async def locks(request: HttpRequest) -> HttpResponse:
    """Has the file locked, over awaits, until three are about to write."""
    with transaction.atomic():
        Number.objects.update(value=10)
        holds.set()
        while waiting < 3:
            await asyncio.sleep(0.01)
    return HttpResponse("unlocked")


@closes
async def waits(request: HttpRequest) -> HttpResponse:
    """Blocks until the file is let go."""
    global waiting
    await holds.wait()
    with transaction.atomic():
        waiting += 1
        Number.objects.update(value=models.F("value") + 1)
        return HttpResponse(Number.objects.get().value)


@closes
async def undoes(request: HttpRequest) -> HttpResponse:
    """Blocks in the middle of a transaction, until another request has looked, and takes all back."""
    with transaction.atomic():
        Number.objects.create(value=100)
        seen = f"{call_itself('/looks')} {Number.objects.count()}"
        transaction.set_rollback(True)
    return HttpResponse(f"{seen} {Number.objects.count()}")


@closes
async def looks(request: HttpRequest) -> HttpResponse:
    """In a transaction of its own."""
    assert not connection.in_atomic_block
    with transaction.atomic():
        return HttpResponse(Number.objects.count())


VIEWS = [outer, inner, stream, backend, synchronous, in_a_thread, awaits, counts, locks, waits, undoes, looks]
urlpatterns = [path("put/<word>", put), *(path(view.__name__, view) for view in VIEWS)]
app = get_asgi_application()
