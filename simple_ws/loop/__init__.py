"""The event loop: readiness, deadlines, listening sockets, TLS, worker threads."""
