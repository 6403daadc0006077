SELECT 'mode', 'users'
