"""Django's async views with its synchronous ORM: a connection for each request, which the view closes.

    hybridexec run examples/django_views.py

Django refuses its ORM in coroutines, as a query would freeze the loop.  Here it does not, and
``DJANGO_ALLOW_ASYNC_UNSAFE`` says that it may.  Django has a connection for each request then, and closes none of them:
it sees only to those that it uses in threads.
(asyncio's own loop runs this as well: ``python examples/django_views.py``; it stands still meanwhile.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from pathlib import Path

import django
from django.conf import settings
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient
from django.urls import path

CUSTOMERS = 20

os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
folder = tempfile.TemporaryDirectory()
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path(folder.name) / "shop",
            "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},
        }
    },
    ROOT_URLCONF=__name__,
)
django.setup()


class Order(models.Model):
    """What a customer has ordered."""

    customer = models.IntegerField()

    class Meta:
        app_label = "shop"


async def order(request: HttpRequest, customer: int) -> HttpResponse:
    """Order twice, in one transaction; answers how many orders are seen in it."""
    with contextlib.closing(connection), transaction.atomic():  # blocks until the one who writes now has committed
        Order.objects.create(customer=customer)
        time.sleep(0.005)  # asks whoever takes the money, say
        Order.objects.create(customer=customer)
        return HttpResponse(Order.objects.filter(customer=customer).count())


urlpatterns = [path("order/<int:customer>", order)]


async def main() -> None:
    """All customers at once."""
    answers = await asyncio.gather(*(AsyncClient().get(f"/order/{number}") for number in range(CUSTOMERS)))
    seen = {answer.content.decode() for answer in answers}
    print(f"{len(answers)} customers with {' or '.join(seen)} orders each")


if __name__ == "__main__":
    with folder:
        with contextlib.closing(connection), connection.schema_editor() as editor:
            editor.create_model(Order)
        asyncio.run(main())
