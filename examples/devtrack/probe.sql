SELECT (SELECT max(id) FROM events), (SELECT sum(points) FROM events), (SELECT count(*) FROM people WHERE is_public = true)
