-- The only table of scoreboardd (protocol §7): the documents, and the lease under which one node builds.
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
-- The values are compressed already.
ALTER TABLE leaderboard_cache ALTER COLUMN payload SET STORAGE EXTERNAL;
-- `scoreboardd migrate --undo` removes only a table with this comment.
COMMENT ON TABLE leaderboard_cache IS 'scoreboardd: its documents and its lease';
