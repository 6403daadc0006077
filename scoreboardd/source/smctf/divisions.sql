-- id; run only where the table exists.
SELECT id FROM divisions ORDER BY id
