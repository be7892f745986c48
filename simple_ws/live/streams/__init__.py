"""Clients of `live` without WebSockets: responses without an end."""
