-- id, title, category, initial, minimum
SELECT id, title, category, points, minimum_points FROM challenges AS c
