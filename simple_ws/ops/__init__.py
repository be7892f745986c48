"""For operators: counters, Prometheus, the dashboard."""
