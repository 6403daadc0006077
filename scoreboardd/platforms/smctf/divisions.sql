-- id, name; run only where the table exists.
SELECT id, name FROM divisions AS d
