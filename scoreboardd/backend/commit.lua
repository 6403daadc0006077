-- Make the staged documents visible all at once, release the lock, announce. Moves no document's bytes: only names.
-- KEYS: lock, fence, version, catalogue, then pairs (staged, document), then documents to remove
-- ARGV: token, epoch, number, pairs, rebuilt_channel, announcement, then the catalogue's fields and values
-- Returns 1, or 0 if it came too late: the token is not the holder's, the fence not newer, or a staged document is gone.
local mine = ARGV[2] .. '-' .. ARGV[3]
if redis.call('GET', KEYS[3]) == mine then
  return 1 -- the reply to our first try was lost: it is done
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local epoch, number = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'number'))
if epoch ~= ARGV[2] or number ~= ARGV[3] then
  return 0
end
local last = 4 + 2 * tonumber(ARGV[4])
for i = 5, last, 2 do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    return 0
  end
end
for i = 5, last, 2 do
  redis.call('PERSIST', KEYS[i])
  redis.call('RENAME', KEYS[i], KEYS[i + 1])
end
for i = last + 1, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
redis.call('SET', KEYS[3], mine)
redis.call('HSET', KEYS[4], unpack(ARGV, 7))
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
