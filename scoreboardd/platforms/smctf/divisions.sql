-- Columns: id, name. Runs only if the table exists.
SELECT id, name FROM divisions AS d
