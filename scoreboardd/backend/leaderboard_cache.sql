CREATE TABLE leaderboard_cache (
    cache_key text PRIMARY KEY, payload bytea, encoding text, version bigint, epoch text,
    generated_at timestamptz, building_until timestamptz, building_token text);
ALTER TABLE leaderboard_cache ALTER COLUMN payload SET STORAGE EXTERNAL;
