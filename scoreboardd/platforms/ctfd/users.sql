-- The users that may be shown. Columns: id, name, team_id, division_id.
SELECT id, name, team_id, bracket_id FROM users WHERE hidden = false AND banned = false
