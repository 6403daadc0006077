-- Take the lease and the next version number, or return how long another node still holds it.
-- $1 lock key  $2 version key  $3 token  $4 ttl (s)  $5 fresh epoch  $6 seen epoch  $7 seen number
-- $8 building channel  $9 max number
-- One row: epoch and number if the lease is ours now, else the seconds for which it is still held, and whether it was
-- held for longer than a node takes it.
WITH server AS (
    -- Identifies the server and the table: a promoted replica has another timeline, a restored dump another table.
    SELECT concat_ws('-', system_identifier, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
                     'leaderboard_cache'::regclass::oid) AS run
    FROM pg_control_system()
), lock AS (
    -- Another program may have written to these rows: a value in another form counts as missing.
    SELECT *, coalesce(epoch ~ '^[0-9a-z]{1,32}$' AND version >= 0 AND version < $9, false) AS is_ours
    FROM leaderboard_cache WHERE cache_key = $1
), known AS (
    SELECT CASE WHEN lock.is_ours THEN lock.epoch END AS epoch, CASE WHEN lock.is_ours THEN lock.version END AS number,
           lock.payload AS run,
           CASE WHEN lock.building_until > now() THEN lock.building_token END AS holder,
           -- Before PostgreSQL 17, infinity has no difference to another time.
           extract(epoch FROM greatest(least(lock.building_until, now() + make_interval(secs => $4)), now()) - now())::float8
               AS remaining,
           CASE WHEN committed.epoch = lock.epoch THEN committed.version ELSE lock.version END AS latest
    FROM (VALUES (1)) AS always
    LEFT JOIN lock ON true
    LEFT JOIN leaderboard_cache AS committed
        ON committed.cache_key = $2 AND committed.version >= 0 AND committed.version < $9
), given AS (
    SELECT server.run,
           -- The client sends the request again because the reply was lost.
           coalesce(holder = $3 AND epoch IS NOT NULL, false) AS again,
           -- The store has lost numbers that the caller has seen: start a new epoch, so that no version comes twice.
           epoch IS NULL OR (epoch = $6 AND latest < $7::bigint) AS lost,
           epoch, number,
           -- Another server has taken over, and may have lost the latest numbers: continue from the time in ms.
           CASE WHEN known.run IS DISTINCT FROM convert_to(server.run, 'UTF8')
                THEN greatest(number, (extract(epoch FROM now()) * 1000)::bigint) ELSE number END AS last
    FROM known, server
    WHERE holder IS NULL OR holder = $3
), taken AS (
    INSERT INTO leaderboard_cache AS lock (cache_key, payload, epoch, version, building_until, building_token)
    SELECT $1, convert_to(run, 'UTF8'),
           CASE WHEN again OR NOT lost THEN epoch ELSE $5 END,
           CASE WHEN again THEN number WHEN lost THEN 1 ELSE last + 1 END,
           now() + make_interval(secs => $4), $3
    FROM given
    ON CONFLICT (cache_key) DO UPDATE
    SET payload = excluded.payload, epoch = excluded.epoch, version = excluded.version,
        building_until = excluded.building_until, building_token = excluded.building_token
    RETURNING epoch, version
), published AS (
    SELECT pg_notify($8, json_build_object('state', 'begun', 'epoch', taken.epoch, 'version', taken.version)::text)
    FROM taken, given
    WHERE NOT again
), shortened AS (
    -- No node takes the lease for so long. Shorten it to the longest time for which a node takes it.
    UPDATE leaderboard_cache SET building_until = now() + make_interval(secs => $4)
    WHERE cache_key = $1 AND building_until > now() + make_interval(secs => $4) AND NOT EXISTS (SELECT FROM given)
    RETURNING cache_key
)
SELECT taken.epoch, taken.version AS number, known.remaining,
       EXISTS (SELECT FROM shortened) AS overlong, (SELECT count(*) FROM published) AS published
FROM known LEFT JOIN taken ON true
