-- Extend the lease if its token is still ours.  $1 lock key  $2 token  $3 ttl (s)  Returns a row if it is extended.
UPDATE leaderboard_cache SET building_until = now() + make_interval(secs => $3)
WHERE cache_key = $1 AND building_token = $2 AND building_until > now()
RETURNING true
