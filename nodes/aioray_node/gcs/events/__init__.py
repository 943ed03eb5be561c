"""Task events: gathered on each node, kept by the GCS."""
