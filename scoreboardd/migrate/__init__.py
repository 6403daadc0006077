"""`scoreboardd migrate`: make in PostgreSQL what the daemon itself needs, or with `--undo` remove exactly that.

Rules:
- It looks first, and does only what is missing: a second run finds nothing to do. What it cannot do is a problem, one
  line with its mend, and keeps nothing else from being done.
- What can be in a transaction is in one; indexes are made and dropped concurrently, outside of any.
- The platform never waits for it: see `perform`. No row of the platform's is written, nothing is dropped by CASCADE.
- Functions and triggers on the platform's tables are their owner's: it makes them, they live beside the tables and
  belong to it. Whatever a role may not do it leaves to the owner, in a problem, and `--dry-run` prints it for both.
- What is ours is known by its name, `scoreboardd_…`, and the table and the index by their comments.
- `--dry-run` prints the very text that would be sent, on a connection that cannot write.
"""

from scoreboardd.migrate.perform import migrate

__all__ = ["migrate"]
