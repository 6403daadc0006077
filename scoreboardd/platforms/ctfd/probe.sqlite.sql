-- One row that differs whenever the board may. The rest, such as the time of a solve that was edited, is found by the
-- full read each rebuild.reconcile seconds.
SELECT (SELECT count(*) FROM solves), (SELECT max(id) FROM solves),
       (SELECT count(*) FROM awards), (SELECT max(id) FROM awards), (SELECT sum(value) FROM awards),
       (SELECT group_concat(id || '|' || ifnull(name, '') || '|' || ifnull(hidden, '') || '|' || ifnull(banned,
                '') || '|' || ifnull(team_id, '') || '|' || ifnull(bracket_id, ''), ';') FROM users),
       (SELECT group_concat(id || '|' || ifnull(name, '') || '|' || ifnull(hidden, '') || '|' || ifnull(banned,
                '') || '|' || ifnull(bracket_id, ''), ';') FROM teams),
       (SELECT group_concat(id || '|' || ifnull(name, '') || '|' || ifnull(type, ''), ';') FROM brackets),
       (SELECT group_concat(id || '|' || ifnull(name, '') || '|' || ifnull(category, '') || '|' ||
                ifnull(value, '') || '|' || ifnull(state, '') || '|' || ifnull(scheduled_at, ''), ';') FROM challenges),
       (SELECT group_concat("key" || '=' || ifnull(value, ''), ';')
        FROM config
        WHERE "key" IN ('user_mode', 'ctf_name', 'start', 'end', 'freeze', 'challenge_visibility', 'score_visibility',
                        'account_visibility'))
