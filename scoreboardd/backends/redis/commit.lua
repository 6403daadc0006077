-- Make the staged documents visible all at once, release the lock, announce. Moves no document's bytes: only names.
-- What a document was before is kept, if so asked: a later version may be made by writing over it.
-- KEYS: lock, fence, version, metadata, then triples (staged, document, previous), then documents to remove
-- ARGV: token, epoch, number, triples, keep, rebuilt_channel, announcement, then the metadata's fields and values
-- Returns 1, or 0 if it came too late: the token is not the holder's, the fence not newer, or a staged document is gone.
local mine = ARGV[2] .. '-' .. ARGV[3]
local function read(kind, command, key, ...)
  return redis.call('TYPE', key).ok == kind and redis.call(command, key, ...)
end
local before = read('string', 'GET', KEYS[3]) or ''
if before == mine then
  return 1 -- the reply to our first try was lost: it is done
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
