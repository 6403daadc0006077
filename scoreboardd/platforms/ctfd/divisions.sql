-- The brackets. Columns: id, name, participants (users or teams).
SELECT id, name, type FROM brackets
