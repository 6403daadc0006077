"""`scoreboardd migrate`: make in PostgreSQL what the daemon itself needs, or with `--undo` remove exactly that.

Rules:
- It looks first, and does only what is missing: a second run finds nothing to do. What it cannot do is a problem, one
  line with its mend, and keeps nothing else from being done.
- What can be in a transaction is in one; indexes are made and dropped concurrently, outside of any.
- The platform never waits for it: see `perform`. No row of the platform's is written, nothing is dropped by CASCADE.
- What is ours is known by its name, `scoreboardd_…`, and the table by its comment.
- `--dry-run` prints the very text that would be sent, on a connection that cannot write.
"""

from scoreboardd.migrate.perform import migrate

__all__ = ["migrate"]
