"""One connection: the client, how it ends, its limits and its options."""
