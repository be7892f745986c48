"""The two clients: the blocking one here, the asyncio one in `simple_ws.aio`."""

from .blocking import Connection, connect

__all__ = ["Connection", "connect"]
