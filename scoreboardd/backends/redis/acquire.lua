-- Take the lock and the next version number, or say how long it is still held.
-- KEYS: lock, fence, version
-- ARGV: token, ttl_ms, fresh_epoch, seen_epoch, seen_number, building_channel, max_number
-- Returns {1, epoch, number} or {0, remaining_ms, overlong}.
-- Somebody else may have written to these keys: what is of another type, or is not as we write it, is not there.
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
    -- No node of ours holds it for so long: it ends as late as one of theirs would.
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
  -- The reply to our first try was lost, and the client sent it again: the same lease, the same number.
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, epoch, tonumber(number)}
end
local committed_epoch, committed = string.match(read('string', 'GET', KEYS[3]) or '', '^([0-9a-z]+)-([0-9]+)$')
if not well_formed(committed_epoch, committed) then
  committed_epoch, committed = nil, nil
end
local info = redis.pcall('INFO', 'server') -- which not every user may ask for
local this_run = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local latest = tonumber(committed_epoch == epoch and committed or number)
if not epoch or (epoch == ARGV[4] and latest < tonumber(ARGV[5])) then
  -- This store has lost what it once told the caller: a new epoch, so that no version is ever given out twice.
  epoch = ARGV[3]
  number = 0
elseif run ~= this_run then
  -- The server has restarted, or another took over: it may have forgotten the latest numbers. Pass over them, and over
  -- those that were passed to in a run that is forgotten as well.
  local seconds, micros = unpack(redis.call('TIME'))
  number = math.max(number, seconds * 1000 + math.floor(micros / 1000))
end
number = tonumber(number) + 1
redis.call('HSET', KEYS[2], 'epoch', epoch, 'number', number, 'run', this_run)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('PUBLISH', ARGV[6], cjson.encode({state = 'begun', epoch = epoch, version = number}))
return {1, epoch, number}
