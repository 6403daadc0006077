-- id, user_id, challenge_id, at, first_blood: the correct submissions, in whatever order; at a time that RFC 3339 can say.
SELECT id, user_id, challenge_id, submitted_at, coalesce(is_first_blood, false)
FROM submissions
WHERE correct AND submitted_at BETWEEN '0001-01-01Z' AND '9999-12-31 23:59:59.999999Z'
