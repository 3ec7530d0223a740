"""amqtt: a plugin of the broker blocks until another client's message comes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from amqtt.client import MQTTClient
from amqtt.mqtt.constants import QOS_0  # with acknowledgements its clients give up after five seconds
from compatibility.service import LIMIT, free_port

from applications.running import application, script

CONFIGURATION = """
listeners:
  default:
    type: tcp
    bind: 127.0.0.1:{port}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin:
    allow_anonymous: true
  amqtt_plugin.Blocks:
"""


async def messages_wait_for_each_other(url: str) -> None:
    """A message stays in the plugin while others pass, until the one comes that lets it go."""
    blocked, other, hears = [MQTTClient(config={"auto_reconnect": False}) for _ in range(3)]
    for client in (blocked, other, hears):
        await client.connect(url)
    await hears.subscribe([("#", QOS_0)])

    async def heard() -> tuple[str, bytes]:
        message = await hears.deliver_message()
        assert message is not None
        return message.topic, bytes(message.data or b"")

    await blocked.publish("take", b"at last", qos=QOS_0)
    for number in range(50):
        await other.publish("news", b"%d" % number, qos=QOS_0)
        assert await heard() == ("news", b"%d" % number)
    await other.publish("put", b"", qos=QOS_0)
    assert sorted([await heard(), await heard()]) == [("put", b""), ("take", b"at last")]
    for client in (blocked, other, hears):
        await client.disconnect()


def test_messages_wait_for_each_other(engine: str, tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "broker.yaml"
    configuration.write_text(CONFIGURATION.format(port=port))
    with application(script("amqtt"), "-c", str(configuration), engine=engine, port=port) as broker:

        async def within_the_limit() -> None:
            async with asyncio.timeout(LIMIT):
                await messages_wait_for_each_other(f"mqtt://127.0.0.1:{port}")

        asyncio.run(within_the_limit())
        # Not SIGINT: after it the broker may wait for ever for its own tasks, on every loop.
        broker.stop_well(
            signal.SIGTERM, status=[-signal.SIGTERM], but=["No data to decode MQTT"]
        )  # the look at the port
