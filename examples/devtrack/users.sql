SELECT id, name, NULL, NULL FROM people WHERE is_public = true
