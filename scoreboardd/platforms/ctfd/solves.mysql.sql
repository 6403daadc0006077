-- The correct submissions, with the team at the time of solving. Columns: id, user_id, team_id, challenge_id, at
-- (microseconds since 1970; CTFd stores UTC without a zone).
SELECT s.id AS id, s.user_id AS user_id, s.team_id AS team_id, s.challenge_id AS challenge_id,
       timestampdiff(MICROSECOND, '1970-01-01', b.date) AS at
FROM solves s
JOIN submissions b ON b.id = s.id
