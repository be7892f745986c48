"""The two clients: blocking here, that of asyncio in `simple_ws.aio`."""

from .blocking import Connection, connect

__all__ = ["Connection", "connect"]
