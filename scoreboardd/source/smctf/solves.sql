-- user_id, challenge_id, at (microseconds since 1970), first_blood: each user's correct submissions, one row a challenge.
SELECT user_id, challenge_id,
       (extract(epoch FROM min(submitted_at)) * 1000000)::bigint, coalesce(bool_or(is_first_blood), false)
FROM submissions
WHERE correct AND submitted_at IS NOT NULL
GROUP BY user_id, challenge_id
