-- id, name, division_id. Read through JSON, because a platform without divisions has no such column.
SELECT id, coalesce(name, ''), (to_jsonb(teams) ->> 'division_id')::bigint FROM teams
