-- Columns: id, title, category, initial points, minimum points, active.
SELECT id, title, category, points, minimum_points, coalesce(is_active, true) FROM challenges AS c
