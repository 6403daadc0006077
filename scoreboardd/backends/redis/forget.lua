-- Delete the record of the committed version, because a document of it is damaged. Then every node finds nothing
-- committed, the next build commits, and no build writes over the damaged values. The numbers continue.
-- KEYS: version, metadata    ARGV: version    Returns 1, or 0 if another version is committed by now.
if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
