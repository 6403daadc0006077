"""`scoreboardd migrate`: creates in PostgreSQL what the daemon needs. With `--undo` it removes exactly that.

Rules:
- It inspects the database first and changes only what is missing, so that a second run finds nothing to do. What it
  cannot do becomes a problem, one line that says how to fix it; the rest is done nevertheless.
- Everything that can run in a transaction runs in one transaction. Indexes are created and dropped concurrently,
  outside of any transaction.
- It never makes the platform wait noticeably (see `perform`). It writes no row of the platform's tables, and never
  drops with CASCADE.
- It creates triggers on the platform's tables, with functions in the same schema that the table's owner owns. What its
  role may not do it reports as a problem for the owner; `--dry-run` prints the statements for both.
- Its objects are recognized by their names, `scoreboardd_…`, and its table and index also by their comments.
- `--dry-run` prints exactly the SQL that a real run would send, and uses a read-only session.
"""

from scoreboardd.migrate.perform import migrate

__all__ = ["migrate"]
