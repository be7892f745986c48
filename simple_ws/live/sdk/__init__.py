"""The client of the protocol for scripts and devices: `simple_ws.live.connect`."""
