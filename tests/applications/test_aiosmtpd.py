"""aiosmtpd: a handler of mails blocks until another mail comes."""

from __future__ import annotations

import signal
import smtplib

import pytest
from compatibility.service import LIMIT, Service, begin

from applications.running import application

COMMAND = ["-m", "aiosmtpd", "--nosetuid", "--listen", "127.0.0.1:{port}", "--class", "with_aiosmtpd.Handler"]


def send(service: Service, subject: str) -> str:
    """Send a mail, on a connection of its own.  Returns what is said to it."""
    with smtplib.SMTP("127.0.0.1", service.port, timeout=LIMIT) as client:
        client.ehlo("localhost")
        client.mail("from@example.com")
        client.rcpt("to@example.com")
        code, said = client.data(f"Subject: {subject}\r\n\r\ntext\r\n")
        assert code == 250, said
        return said.decode()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_mails_wait_for_each_other(engine: str, number: signal.Signals, status: int) -> None:
    with application(*COMMAND, engine=engine) as service:
        assert send(service, "hello") == "hello"
        taken = begin(*[lambda: send(service, "take")] * 4)
        assert [send(service, f"put {word}") for word in "abcd"] == ["put"] * 4
        assert sorted(taken()) == list("abcd")
        # It closes its loop over connections that uvloop, plain or ours, has not closed yet.
        service.stop_well(number, status=[status], but=["Task was destroyed"] if engine == "uvloop" else [])
