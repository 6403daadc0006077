"""The builder process: a child of the daemon that does all work on megabytes, so that the daemon's loop never does.

Reading the database, building, rendering and moving documents to and from the store hold Python's lock for tens of
milliseconds and more. In a thread they would delay the loop just as much. The daemon's side (`process`) sends requests
over a socket pair (`messages`, `channel`). The child (`service`, started by `__main__`) answers with a few numbers, and
with documents in shared memory (`shared_documents`).
"""
