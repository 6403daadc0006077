-- Forget what is committed, as it is damaged: so every node knows that a build has to commit, and none writes over what
-- is there. Numbers go on from those given out.
-- KEYS: version, metadata    ARGV: version    Returns 1, or 0 if another version is committed by now.
if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
