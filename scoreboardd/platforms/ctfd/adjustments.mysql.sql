-- The awards; the cost of a hint is one with a negative value. Columns: id, user_id, team_id, at, points.
SELECT id AS id, user_id AS user_id, team_id AS team_id,
       timestampdiff(MICROSECOND, '1970-01-01', date) AS at,
       coalesce(value, 0) AS points
FROM awards
