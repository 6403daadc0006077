-- id, name, team_id, of the users who may be seen.
SELECT id, username, team_id FROM users AS u WHERE coalesce(role, '') NOT IN ('blocked', 'admin')
