-- The correct submissions, with the team at the time of solving. Columns: id, user_id, team_id, challenge_id, at
-- (microseconds since 1970; CTFd stores UTC without a zone).
SELECT s.id AS id, s.user_id AS user_id, s.team_id AS team_id, s.challenge_id AS challenge_id,
       CASE WHEN b.date >= '0001-01-01' AND b.date < '10000-01-01'
            THEN round(extract(epoch FROM b.date) * 1000000)::bigint END AS at
FROM solves s
JOIN submissions b ON b.id = s.id
