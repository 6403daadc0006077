-- Make all staged documents visible, release the lock and announce the version. Keys are renamed; no value is copied.
-- With `keep` 1 the replaced documents stay under their `previous` keys, so that a later build can write over them.
-- KEYS: lock, fence, version, metadata, then triples (staged, document, previous), then documents to remove
-- ARGV: token, epoch, number, triples, keep, rebuilt_channel, announcement, then the metadata's fields and values
-- Returns 1, or 0 if the commit is refused: the token or the number is not the lock's, or a staged document is missing.
local mine = ARGV[2] .. '-' .. ARGV[3]
local function read(kind, command, key, ...)
  return redis.call('TYPE', key).ok == kind and redis.call(command, key, ...)
end
local before = read('string', 'GET', KEYS[3]) or ''
if before == mine then
  return 1 -- committed before; the reply was lost
end
if read('string', 'GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local epoch, number = unpack(read('hash', 'HMGET', KEYS[2], 'epoch', 'number') or {})
if epoch ~= ARGV[2] or number ~= ARGV[3] then
  return 0
end
local last = 4 + 3 * tonumber(ARGV[4])
for i = 5, last, 3 do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    return 0
  end
end
for i = 5, last, 3 do
  redis.call('PERSIST', KEYS[i])
  redis.call('UNLINK', KEYS[i + 2])
  if ARGV[5] == '1' and redis.call('EXISTS', KEYS[i + 1]) == 1 then
    redis.call('RENAME', KEYS[i + 1], KEYS[i + 2])
  end
  redis.call('RENAME', KEYS[i], KEYS[i + 1])
end
for i = last + 1, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
redis.call('DEL', KEYS[4])
redis.call('HSET', KEYS[4], 'previous', before, unpack(ARGV, 8))
redis.call('SET', KEYS[3], mine)
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[6], ARGV[7])
return 1
