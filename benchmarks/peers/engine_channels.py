"""Django Channels with channels_redis, on uvicorn, uvloop and websockets.

The name of the layer is in the environment: CHANNEL_LAYER=core.RedisChannelLayer, or
pubsub.RedisPubSubChannelLayer.
"""

import os

import common
import engine_common
import uvicorn
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings

LAYER = "channels_redis." + os.environ["CHANNEL_LAYER"]


def configure(url):
    layer = {"BACKEND": LAYER, "CONFIG": {"hosts": [url]}}
    settings.configure(CHANNEL_LAYERS={"default": layer})


class Room(AsyncWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add(engine_common.TOPIC, self.channel_name)
        await self.accept()

    async def bench_message(self, event):
        await self.send(text_data=event["text"])


def receive(url):
    configure(url)
    listener = common.listening_socket(0)
    config = uvicorn.Config(
        Room.as_asgi(),
        loop="uvloop",
        ws="websockets-sansio",
        lifespan="off",
        log_level="error",
    )
    common.ready(listener.getsockname()[1])
    uvicorn.Server(config).run([listener])


async def publish(url, rate, seconds):
    configure(url)
    layer = get_channel_layer()

    async def send(message):
        event = {"type": "bench.message", "text": message}
        await layer.group_send(engine_common.TOPIC, event)

    await engine_common.pace(send, rate, seconds)


if __name__ == "__main__":
    engine_common.main(receive, publish)
