-- Columns: id, name, division_id.
SELECT id, name, division_id FROM teams AS t
