"""Bytes in, events and bytes out: no socket, clock or thread (sans-I/O)."""
