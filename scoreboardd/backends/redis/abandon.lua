-- Release the lock without a result, if its token is ours, and publish that to the other nodes.
-- KEYS: lock    ARGV: token, epoch, number, building_channel
if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[4], cjson.encode({state = 'abandoned', epoch = ARGV[2], version = tonumber(ARGV[3])}))
return 1
