-- Make the staged documents the persisted ones, which nodes serve without Redis, unless newer ones are persisted.
-- $1 version key  $2 epoch  $3 number  $4 staged keys  $5 their documents' keys  $6 keys of documents to delete
-- $7 metadata  $8 as_of (Unix time)  $9 seconds in which no other node needs to persist
-- $10 xmin of the version's row if that row is unusable, else NULL
-- A row if they are persisted now. Epochs have no order: of two epochs, the snapshot with the later as_of wins.
WITH newest AS (
    INSERT INTO leaderboard_cache AS kept
        (cache_key, payload, encoding, epoch, version, generated_at, building_until)
    VALUES ($1, $7::bytea, 'identity', $2, $3, to_timestamp($8), now() + make_interval(secs => $9))
    ON CONFLICT (cache_key) DO UPDATE
    SET payload = excluded.payload, encoding = excluded.encoding, epoch = excluded.epoch, version = excluded.version,
        generated_at = excluded.generated_at, building_until = excluded.building_until
    WHERE kept.xmin::text = $10 OR (
        coalesce(CASE WHEN kept.epoch = excluded.epoch THEN kept.version < excluded.version
                      ELSE kept.generated_at < excluded.generated_at END, true)
        -- Another node may have persisted since this node looked.
        AND ($9 = 0 OR coalesce(kept.building_until <= now(), true)
             OR kept.building_until > now() + make_interval(secs => $9)) -- no node waits for so long
    )
    RETURNING cache_key
), deleted AS (
    DELETE FROM leaderboard_cache
    WHERE cache_key = ANY ($5::text[] || $6::text[]) AND EXISTS (SELECT FROM newest)
    RETURNING cache_key
)
UPDATE leaderboard_cache AS document
SET cache_key = fresh.name, generated_at = to_timestamp($8), building_until = NULL, building_token = NULL
FROM unnest($4::text[], $5::text[]) AS fresh (staged, name)
-- The count makes PostgreSQL run the deletion first, because a key must be free before another row gets it.
WHERE cache_key = fresh.staged AND EXISTS (SELECT FROM newest) AND (SELECT count(*) FROM deleted) >= 0
RETURNING true
