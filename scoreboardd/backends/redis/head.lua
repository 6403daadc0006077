-- What is committed, and the latest number that was given out. Reads only, so a server without memory executes it too.
-- KEYS: version, metadata, fence
-- Returns {version, the metadata's fields and values, epoch, number}: empty where there is nothing, or of another type.
local function read(kind, command, key, ...)
  return redis.call('TYPE', key).ok == kind and redis.call(command, key, ...)
end
local epoch, number = unpack(read('hash', 'HMGET', KEYS[3], 'epoch', 'number') or {})
return {
  read('string', 'GET', KEYS[1]) or '', read('hash', 'HGETALL', KEYS[2]) or {}, epoch or '', number or ''
}
