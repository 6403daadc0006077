-- Release the lease without a commit, because the committed documents are still true, and publish that.
-- $1 lock key  $2 version key  $3 token  $4 epoch  $5 number  $6 as_of (Unix time)  $7 building channel
-- $8 fields of the metadata that change, as JSON
-- A row, or none if it is refused: the lease is not ours, or no version is committed any more.
WITH released AS (
    UPDATE leaderboard_cache SET building_until = NULL, building_token = NULL
    WHERE cache_key = $1 AND building_token = $3 AND building_until > now()
      AND EXISTS (
          SELECT FROM leaderboard_cache WHERE cache_key = $2 AND version IS NOT NULL AND payload IS NOT NULL
      )
    RETURNING cache_key
), confirmed AS (
    UPDATE leaderboard_cache
    SET generated_at = to_timestamp($6),
        payload = convert_to((convert_from(payload, 'UTF8')::jsonb || $8::jsonb)::text, 'UTF8')
    WHERE cache_key = $2 AND EXISTS (SELECT FROM released)
    RETURNING epoch || '-' || version AS version
)
SELECT pg_notify($7, json_build_object(
    'state', 'confirmed', 'epoch', $4::text, 'version', $5::bigint, 'as_of', $6::float8, 'committed', version
)::text)
FROM confirmed
