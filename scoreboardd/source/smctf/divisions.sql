-- id, name; run only where the table exists.
SELECT id, coalesce(name, '') FROM divisions ORDER BY id
