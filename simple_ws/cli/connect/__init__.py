"""The command `connect`: type to a server, or to clients, and read what they send."""
