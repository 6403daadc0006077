-- The correct submissions, in any order. Columns: id, user_id, challenge_id, at, first_blood.
SELECT id, user_id, challenge_id, submitted_at, coalesce(is_first_blood, false)
FROM submissions AS s
WHERE correct
