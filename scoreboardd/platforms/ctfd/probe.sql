-- One row that differs whenever the board may. The rest, such as the time of a solve that was edited, is found by the
-- full read each rebuild.reconcile seconds.
SELECT (SELECT count(*) FROM solves), (SELECT max(id) FROM solves),
       (SELECT count(*) FROM awards), (SELECT max(id) FROM awards), (SELECT sum(value) FROM awards),
       (SELECT sum(hashtext(concat_ws('|', id, name, hidden, banned, team_id, bracket_id))::bigint) FROM users),
       (SELECT sum(hashtext(concat_ws('|', id, name, hidden, banned, bracket_id))::bigint) FROM teams),
       (SELECT sum(hashtext(concat_ws('|', id, name, type))::bigint) FROM brackets),
       (SELECT sum(hashtext(concat_ws('|', id, name, category, value, state, scheduled_at))::bigint) FROM challenges),
       (SELECT string_agg(concat("key", '=', value), ';' ORDER BY "key")
        FROM config
        WHERE "key" IN ('user_mode', 'ctf_name', 'start', 'end', 'freeze', 'challenge_visibility', 'score_visibility',
                        'account_visibility'))
