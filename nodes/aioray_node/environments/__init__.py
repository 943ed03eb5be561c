"""Environments that take time to set up: once per node, however many ask."""
