"""A site of Django with Channels, for the tests."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

settings.configure(
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this test",
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()

# They need the settings.
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402


class Chat(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        event = {"type": "said", "text": text_data}
        await self.channel_layer.group_send("room", event)

    async def said(self, event: Any) -> None:
        await self.send(text_data=event["text"])

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("room", self.channel_name)


def page(request: Any) -> Any:  # sync: Django calls it in a thread
    return HttpResponse(f"{request.method} {request.path} {len(request.body)}")


urlpatterns = [path("page", page)]
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("chat", Chat.as_asgi())]),
    }
)
