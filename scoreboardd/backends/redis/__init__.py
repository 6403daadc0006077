"""The Redis backend (Redis ≥ 6.2 or Valkey; one primary).

Every step that must be atomic is a Lua script beside this file; no script touches a document's bytes. Under Redis
Cluster all keys must live in one slot: give `redis.key_prefix` a hash tag, such as `{ctf}:`, and name the node of that
slot in `redis.url`; this is no cluster client.
"""
