"""The backend for a single node, which needs no server: a file in `cache.directory`, and a bus within the process.

The file is an SQLite database. The daemon takes the lock and commits in it, and the builder process stages documents.
"""
