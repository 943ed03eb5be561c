"""Metrics: gathered by each node over its processes, and by the GCS over all nodes."""
