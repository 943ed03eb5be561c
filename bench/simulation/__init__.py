"""A cluster of the real cores under a virtual clock: what each part of it costs, with thousands of nodes."""
