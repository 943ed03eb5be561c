"""aioray beside the limit of its machine and beside its peers: `python -m bench` (see `bench/__main__.py`)."""
