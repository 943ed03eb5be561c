"""A search service over Python source code, on an aioray cluster inside an aiohttp application.

    python -m examples.code_search demo     index, serve, query over HTTP, print the figures, leave
    python -m examples.code_search serve    the same index with a search page, until Ctrl-C

corpus.py  find files and cut them into documents      pure
index.py   count terms, weigh them, rank rows          pure
cluster.py the remote tasks, the shard actor, and the order in which they run
service.py the aiohttp application
"""
