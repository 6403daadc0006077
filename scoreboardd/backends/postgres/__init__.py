"""The Postgres backend: a whole cluster on the platform's own database, and the tier that outlives Redis.

All of it is one table, `leaderboard_cache` (protocol §7, made by `scoreboardd migrate`), found by the search_path:

- the lease: key `leaderboard:rebuild:lock`; `epoch` and `version` are those last given out, `payload` is the server
  that gave them out, `building_token` has the lease until `building_until`;
- what is committed: key `scoreboard:version`; `payload` is its metadata, `generated_at` when it was last true;
- the documents, zstd, under the names they have in Redis; a staged one is forgotten at its `building_until`.

Every step that must be atomic is one statement, in a file beside this, in a repeatable-read transaction of its own: it
sees one state of the table and changes that one, or fails as not serializable and is run again. No client can stop in
the middle of one. Postgres delivers notifications in the order of the commits that sent them, and what was committed
is visible before the next one that notifies can be: `cluster.coordinator` relies on that order.
"""
