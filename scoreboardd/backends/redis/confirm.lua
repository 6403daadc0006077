-- Release the lock without a commit, because the committed documents are still true, and publish that.
-- KEYS: lock, version, metadata    ARGV: token, epoch, number, as_of, building_channel, then fields of the metadata
-- Returns 1, or 0 if it is refused: the token is not the lock's, or no version is committed any more.
local function read(kind, command, key, ...)
  return redis.call('TYPE', key).ok == kind and redis.call(command, key, ...)
end
local committed = read('string', 'GET', KEYS[2])
if read('string', 'GET', KEYS[1]) ~= ARGV[1] or not committed or redis.call('TYPE', KEYS[3]).ok ~= 'hash' then
  return 0
end
redis.call('HSET', KEYS[3], 'as_of', ARGV[4], unpack(ARGV, 6))
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[5], cjson.encode({
  state = 'confirmed', epoch = ARGV[2], version = tonumber(ARGV[3]), as_of = tonumber(ARGV[4]), committed = committed
}))
return 1
