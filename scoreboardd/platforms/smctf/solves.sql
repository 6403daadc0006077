-- id, user_id, challenge_id, at, first_blood: the correct submissions, in any order.
SELECT id, user_id, challenge_id, submitted_at, coalesce(is_first_blood, false)
FROM submissions AS s
WHERE correct
