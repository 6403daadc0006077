-- id, name, team_id, of the users who may be seen.
SELECT id, coalesce(username, ''), team_id FROM users WHERE coalesce(role, '') NOT IN ('blocked', 'admin')
