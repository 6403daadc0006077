SELECT id AS id, person_id AS user_id, NULL AS team_id, happened_at * 1000000 AS at, points AS points FROM events
