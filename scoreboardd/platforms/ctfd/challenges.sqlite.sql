-- All challenges. Columns: id, title, category, points, listed (0 or 1), opens_at (Unix seconds), and for values at the
-- moment of a freeze: function, initial, minimum, decay.
SELECT c.id, c.name, c.category, c.value, CASE WHEN c.state = 'visible' THEN 1 ELSE 0 END,
       CAST(strftime('%s', substr(c.scheduled_at, 1, 19)) AS INTEGER),
       CASE WHEN d.id IS NULL THEN c."function" ELSE d.dynamic_function END,
       CASE WHEN d.id IS NULL THEN c."initial" ELSE d.dynamic_initial END,
       CASE WHEN d.id IS NULL THEN c.minimum ELSE d.dynamic_minimum END,
       CASE WHEN d.id IS NULL THEN c.decay ELSE d.dynamic_decay END
FROM challenges c
LEFT JOIN dynamic_challenge d ON d.id = c.id
