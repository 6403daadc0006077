-- One row that differs whenever the board may. The rest, such as the time of a solve that was edited, is found by the
-- full read each rebuild.reconcile seconds.
SELECT (SELECT count(*) FROM solves), (SELECT max(id) FROM solves),
       (SELECT count(*) FROM awards), (SELECT max(id) FROM awards), (SELECT sum(value) FROM awards),
       (SELECT sum(crc32(concat_ws('|', id, coalesce(name, ''), coalesce(hidden, ''), coalesce(banned, ''),
                coalesce(team_id, ''), coalesce(bracket_id, '')))) FROM users),
       (SELECT sum(crc32(concat_ws('|', id, coalesce(name, ''), coalesce(hidden, ''), coalesce(banned, ''),
                coalesce(bracket_id, '')))) FROM teams),
       (SELECT sum(crc32(concat_ws('|', id, coalesce(name, ''), coalesce(type, '')))) FROM brackets),
       (SELECT sum(crc32(concat_ws('|', id, coalesce(name, ''), coalesce(category, ''), coalesce(value, ''),
                coalesce(state, ''), coalesce(scheduled_at, '')))) FROM challenges),
       (SELECT group_concat(concat("key", '=', coalesce(value, '')) ORDER BY "key" SEPARATOR ';')
        FROM config
        WHERE "key" IN ('user_mode', 'ctf_name', 'start', 'end', 'freeze', 'challenge_visibility', 'score_visibility',
                        'account_visibility'))
