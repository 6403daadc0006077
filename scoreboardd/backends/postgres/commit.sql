-- Make all staged documents visible, release the lease and announce the version. Rows get new keys; no value is copied.
-- $1 lock key  $2 version key  $3 token  $4 epoch  $5 number  $6 staged keys  $7 their documents' keys
-- $8 keys of documents to delete  $9 metadata  $10 as_of (Unix time)  $11 rebuilt channel  $12 announcement
-- One row: true, or false if the commit is refused: the lease is not ours, its number is newer, or a staged document is
-- missing.
WITH done AS (
    -- Committed before; the reply was lost.
    SELECT FROM leaderboard_cache WHERE cache_key = $2 AND epoch = $4 AND version = $5
), released AS (
    UPDATE leaderboard_cache SET building_until = NULL, building_token = NULL
    WHERE cache_key = $1 AND building_token = $3 AND building_until > now() AND epoch = $4 AND version = $5
      AND NOT EXISTS (SELECT FROM done)
      AND (
          SELECT count(*) FROM leaderboard_cache WHERE cache_key = ANY ($6::text[]) AND building_until > now()
      ) = cardinality($6::text[])
    RETURNING cache_key
), deleted AS (
    DELETE FROM leaderboard_cache
    WHERE cache_key = ANY ($7::text[] || $8::text[]) AND EXISTS (SELECT FROM released)
    RETURNING cache_key
), renamed AS (
    UPDATE leaderboard_cache AS document
    SET cache_key = fresh.name, generated_at = to_timestamp($10), building_until = NULL, building_token = NULL
    FROM unnest($6::text[], $7::text[]) AS fresh (staged, name)
    -- The count makes PostgreSQL run the deletion first, because a key must be free before another row gets it.
    WHERE cache_key = fresh.staged AND EXISTS (SELECT FROM released) AND (SELECT count(*) FROM deleted) >= 0
), announced AS (
    INSERT INTO leaderboard_cache (cache_key, payload, encoding, epoch, version, generated_at)
    SELECT $2, $9::bytea, 'identity', $4, $5, to_timestamp($10) FROM released
    ON CONFLICT (cache_key) DO UPDATE
    SET payload = excluded.payload, encoding = excluded.encoding, epoch = excluded.epoch, version = excluded.version,
        generated_at = excluded.generated_at, building_until = NULL
    RETURNING pg_notify($11, $12)
)
SELECT EXISTS (SELECT FROM done) OR EXISTS (SELECT FROM announced)
