-- The users that may be shown. Columns: id, name, team_id.
SELECT id, username, team_id FROM users AS u WHERE coalesce(role, '') NOT IN ('blocked', 'admin')
