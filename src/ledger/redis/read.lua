-- Reads what an account's statement is made of, in one step. A transaction would be refused by a
-- server whose memory is full.
--
-- KEYS[1]  the account's record
-- KEYS[2]  the period's book
-- KEYS[3]  the period's holds
-- KEYS[4]  the period's leases
--
-- ARGV[1] `all` for all of the leases
--
-- Answers the server's clock in seconds and microseconds; all fields and values of the record, of
-- the book and of the holds; and of the leases their sums alone, or all.
local found = { redis.call('TIME') }
for i = 1, 3 do found[i + 1] = redis.call('HGETALL', KEYS[i]) end
if ARGV[1] == 'all' then
  found[5] = redis.call('HGETALL', KEYS[4])
  return found
end
local sums = redis.call('HGET', KEYS[4], SUM)
found[5] = sums and { SUM, sums } or {}
return found
