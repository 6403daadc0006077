-- Extend the lock if its token is still ours.  KEYS: lock    ARGV: token, ttl_ms    Returns 1 or 0.
if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
