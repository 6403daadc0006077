-- id, name, division_id. On a platform without divisions no such column is in `teams`, and the name means the outer one.
SELECT team.id, coalesce(team.name, ''), team.division_id
FROM (SELECT NULL::bigint AS division_id) AS absent
CROSS JOIN LATERAL (SELECT id, name, division_id FROM teams) AS team
