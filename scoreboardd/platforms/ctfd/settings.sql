-- Columns: name, value. `config` also holds secrets: grant a view with these keys only.
SELECT CASE "key"
           WHEN 'user_mode' THEN 'mode'
           WHEN 'ctf_name' THEN 'name'
           WHEN 'start' THEN 'starts_at'
           WHEN 'end' THEN 'ends_at'
           WHEN 'freeze' THEN 'freezes_at'
           WHEN 'challenge_visibility' THEN 'challenges'
           ELSE 'visibility'
       END AS name,
       value
FROM config
WHERE "key" IN ('user_mode', 'ctf_name', 'start', 'end', 'freeze', 'challenge_visibility', 'score_visibility',
                'account_visibility')
