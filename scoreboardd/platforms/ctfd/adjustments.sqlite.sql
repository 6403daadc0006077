-- The awards; the cost of a hint is one with a negative value. Columns: id, user_id, team_id, at, points.
SELECT id AS id, user_id AS user_id, team_id AS team_id,
       CAST(strftime('%s', substr(date, 1, 19)) AS INTEGER) * 1000000
       + CASE WHEN substr(date, 20, 1) = '.' THEN CAST(substr(substr(date, 21, 6) || '00000', 1, 6) AS INTEGER) ELSE 0 END AS at,
       coalesce(value, 0) AS points
FROM awards
