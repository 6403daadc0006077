-- The one table of scoreboardd's own (protocol §7): documents, and the lease by which one node builds.
CREATE TABLE leaderboard_cache (
    cache_key      text PRIMARY KEY,
    payload        bytea,
    encoding       text,
    version        bigint,
    epoch          text,
    generated_at   timestamptz,
    building_until timestamptz,
    building_token text
);
-- It is compressed already.
ALTER TABLE leaderboard_cache ALTER COLUMN payload SET STORAGE EXTERNAL;
-- By this `scoreboardd migrate --undo` knows it.
COMMENT ON TABLE leaderboard_cache IS 'scoreboardd: its documents and its lease';
