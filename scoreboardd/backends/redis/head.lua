-- Read what is committed, and the latest number that was given out. Reads only, so a server without memory executes it.
-- KEYS: version, metadata, fence    ARGV: max_bytes of a field, then fields of the metadata
-- Returns {version, {each field}, epoch, number}: "" for what does not exist, has another type, or is too long.
local MAX_VERSION_BYTES = 64
local function field(key, name, max_bytes)
  return redis.call('TYPE', key).ok == 'hash' and redis.call('HSTRLEN', key, name) <= max_bytes
    and redis.call('HGET', key, name) or ''
end
local version = ''
if redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('STRLEN', KEYS[1]) <= MAX_VERSION_BYTES then
  version = redis.call('GET', KEYS[1])
end
local metadata = {}
for i = 2, #ARGV do
  metadata[i - 1] = field(KEYS[2], ARGV[i], tonumber(ARGV[1]))
end
return {version, metadata, field(KEYS[3], 'epoch', MAX_VERSION_BYTES), field(KEYS[3], 'number', MAX_VERSION_BYTES)}
