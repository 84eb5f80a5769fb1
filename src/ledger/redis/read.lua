-- Reads what an account's statement is made of, in one step. A transaction would be refused by a
-- server whose memory is full.
--
-- KEYS[1]  the account's record
-- KEYS[2]  the period's book
-- KEYS[3]  the period's holds
-- KEYS[4]  the account's parts
-- KEYS[5]  the period's parts
-- KEYS[6]  the period's leases
--
-- ARGV[1] `all` for all of the leases
--
-- Answers the server's clock in seconds and microseconds, and all fields and values of each of the
-- keys; of the leases their sums alone, or all.
local found = {}
for i = 1, 5 do found[i] = redis.call('HGETALL', KEYS[i]) end
if ARGV[1] == 'all' then
  found[6] = redis.call('HGETALL', KEYS[6])
else
  local sums = redis.call('HGET', KEYS[6], SUM)
  found[6] = sums and { SUM, sums } or {}
end
return { redis.call('TIME'), found }
