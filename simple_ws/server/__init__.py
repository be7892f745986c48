"""`Server`: what is served where, the upgrade, and sending to many clients."""

from .server import Server

__all__ = ["Server"]
