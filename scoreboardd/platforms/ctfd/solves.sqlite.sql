-- The correct submissions, with the team at the time of solving. Columns: id, user_id, team_id, challenge_id, at
-- (microseconds since 1970; CTFd stores UTC without a zone).
SELECT s.id AS id, s.user_id AS user_id, s.team_id AS team_id, s.challenge_id AS challenge_id,
       CAST(strftime('%s', substr(b.date, 1, 19)) AS INTEGER) * 1000000
       + CASE WHEN substr(b.date, 20, 1) = '.' THEN CAST(substr(substr(b.date, 21, 6) || '00000', 1, 6) AS INTEGER) ELSE 0 END AS at
FROM solves s
JOIN submissions b ON b.id = s.id
