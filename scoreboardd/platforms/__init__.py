"""Reads the platforms' databases. Each platform is a folder here with a `platform.toml` and `.sql` files, no Python.

`platform.toml` lists the tables and columns that the queries read, and the indexes that they need; `scoreboardd check`
compares them with the database. Each query returns fixed columns (see `postgres.py`) and only rows that may be shown:
correct submissions, visible users.
"""
