"""ASGI applications, by HTTP and by WebSocket; see docs/design.md."""
