-- Release the lock without a commit, if it is ours, and tell the other nodes how the build ended.
-- KEYS: lock, catalogue    ARGV: token, building_channel, message, as_of (empty: the documents were not checked)
-- Returns 1 or 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[4] ~= '' then
  local catalogue = redis.call('GET', KEYS[2])
  if not catalogue then
    return 0
  end
  catalogue = cjson.decode(catalogue)
  catalogue.as_of = tonumber(ARGV[4])
  redis.call('SET', KEYS[2], cjson.encode(catalogue))
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
