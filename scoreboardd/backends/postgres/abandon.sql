-- Release the lease without a result, if its token is ours, and publish that to the other nodes.
-- $1 lock key  $2 token  $3 epoch  $4 number  $5 building channel
WITH released AS (
    UPDATE leaderboard_cache SET building_until = NULL, building_token = NULL
    WHERE cache_key = $1 AND building_token = $2 AND building_until > now()
    RETURNING cache_key
)
SELECT pg_notify($5, json_build_object('state', 'abandoned', 'epoch', $3::text, 'version', $4::bigint)::text)
FROM released
