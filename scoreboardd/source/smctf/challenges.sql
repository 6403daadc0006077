-- id, title, category, initial, minimum
SELECT id, coalesce(title, ''), coalesce(category, ''), coalesce(points, 0), coalesce(minimum_points, points, 0) FROM challenges
