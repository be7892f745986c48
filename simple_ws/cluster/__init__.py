"""Several processes and nodes: engines, the link to them, the supervisor of workers."""
