"""The builder: a child process that does whatever moves megabytes, so that the daemon's loop never does.

Reading the database, building, rendering and moving documents to and from the store hold Python's lock for tens of
milliseconds and more; in a thread they would stop the loop just as if they ran on it. The parent (`process`) sends
requests over a socket pair; the child (`work`, started by `__main__`) answers with a few numbers and a *parcel*:
documents in memory that both map and nobody copies.
"""
