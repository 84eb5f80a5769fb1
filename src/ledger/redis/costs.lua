-- Keeps the costs of requests.
--
-- KEYS[1]   the account's record
-- KEYS[2..] buckets of costs
--
-- ARGV[1]   the moment until which they are kept, in milliseconds since 1970, and for each bucket
--           the number of its costs, and their ids and costs
--
-- Answers 1, or 0 for an account that was erased.
if redis.call('HEXISTS', KEYS[1], ERASED) == 1 then return 0 end
local at = 2
for bucket = 2, #KEYS do
  local last = at + 2 * tonumber(ARGV[at])
  redis.call('HSET', KEYS[bucket], unpack(ARGV, at + 1, last))
  at = last + 1
  local time = redis.call('TIME')
  local left = ARGV[1] - (time[1] * 1000 + math.floor(time[2] / 1000))
  -- Others may keep them for longer.
  if redis.call('PTTL', KEYS[bucket]) < left then redis.call('PEXPIREAT', KEYS[bucket], ARGV[1]) end
end
return 1
