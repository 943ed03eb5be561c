"""The cluster's tables and what is decided about them. Off the path of every call."""
