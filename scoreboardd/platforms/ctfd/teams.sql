-- The teams that may be shown. NULL in hidden or banned hides a team, as it does in CTFd. Columns: id, name, division_id.
SELECT id, name, bracket_id FROM teams WHERE hidden = false AND banned = false
