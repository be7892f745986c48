"""The timers that `Server.every`, `call_later` and `call_at` return."""

from .loop.schedule import Job

__all__ = ["Job"]
