"""Where the facts come from. A platform is a folder here: a `platform.toml` and a few `.sql` files, no Python.

`platform.toml` names the tables and columns the queries read, and the indexes they want, for `scoreboardd check`. Each
query returns fixed columns (see `postgres.py`) and sees only what may be shown: correct submissions, visible users.
"""
