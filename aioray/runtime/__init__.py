"""One process's side of a cluster: the same for a driver and for a worker."""
