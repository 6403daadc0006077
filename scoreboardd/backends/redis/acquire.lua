-- Take the lock and the next version number, or return how long another node still holds it.
-- KEYS: lock, fence, version
-- ARGV: token, ttl_ms, fresh_epoch, seen_epoch, seen_number, building_channel, max_number
-- Returns {1, epoch, number} or {0, remaining_ms, overlong}.
-- Another program may have written to these keys: a value of another type, or in another form, counts as missing.
local function read(kind, command, key, ...)
  return redis.call('TYPE', key).ok == kind and redis.call(command, key, ...)
end
local function well_formed(epoch, number)
  return epoch and number and #epoch <= 32 and string.match(epoch, '^[0-9a-z]+$')
    and string.match(number, '^[0-9]+$') and tonumber(number) < tonumber(ARGV[7])
end
local holder = redis.call('EXISTS', KEYS[1]) == 1 and (read('string', 'GET', KEYS[1]) or '')
if holder and holder ~= ARGV[1] then
  local remaining = redis.call('PTTL', KEYS[1])
  if remaining < 0 or remaining > tonumber(ARGV[2]) then
    -- No node takes the lock for so long. Shorten it to the longest time for which a node takes it.
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return {0, tonumber(ARGV[2]), 1}
  end
  return {0, remaining, 0}
end
local epoch, number, run = unpack(read('hash', 'HMGET', KEYS[2], 'epoch', 'number', 'run') or {})
if not well_formed(epoch, number) then
  epoch, number = nil, nil
  redis.call('DEL', KEYS[2])
end
if holder and epoch then
  -- The client sends the request again because the reply was lost. Return the same lease and number.
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, epoch, tonumber(number)}
end
local committed_epoch, committed = string.match(read('string', 'GET', KEYS[3]) or '', '^([0-9a-z]+)-([0-9]+)$')
if not well_formed(committed_epoch, committed) then
  committed_epoch, committed = nil, nil
end
local info = redis.pcall('INFO', 'server') -- not every user may run INFO
local this_run = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local latest = tonumber(committed_epoch == epoch and committed or number)
if not epoch or (epoch == ARGV[4] and latest < tonumber(ARGV[5])) then
  -- The store has lost numbers that the caller has seen. Start a new epoch, so that no version is given out twice.
  epoch = ARGV[3]
  number = 0
elseif run ~= this_run then
  -- The server has restarted, or another server has taken over, and may have lost the latest numbers. Continue from the
  -- time in milliseconds, which is above all numbers given out before.
  local seconds, micros = unpack(redis.call('TIME'))
  number = math.max(number, seconds * 1000 + math.floor(micros / 1000))
end
number = tonumber(number) + 1
redis.call('HSET', KEYS[2], 'epoch', epoch, 'number', number, 'run', this_run)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('PUBLISH', ARGV[6], cjson.encode({state = 'begun', epoch = epoch, version = number}))
return {1, epoch, number}
