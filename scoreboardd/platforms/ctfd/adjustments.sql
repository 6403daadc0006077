-- The awards; the cost of a hint is one with a negative value. Columns: id, user_id, team_id, at, points.
SELECT id AS id, user_id AS user_id, team_id AS team_id,
       CASE WHEN date >= '0001-01-01' AND date < '10000-01-01'
            THEN round(extract(epoch FROM date) * 1000000)::bigint END AS at,
       coalesce(value, 0) AS points
FROM awards
