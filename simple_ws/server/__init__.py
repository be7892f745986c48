"""`Server`: what is served where, the upgrade, and who receives."""

from .server import Server

__all__ = ["Server"]
