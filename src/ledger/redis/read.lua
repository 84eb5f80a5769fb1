-- Reads what an account's statement is made of, in one step: the server's clock in seconds and microseconds; the fields and values of KEYS[1], the record,
-- of KEYS[2], the period's book, and of KEYS[3], its holds; and of KEYS[4], its leases, their sum. A transaction would be refused by a server whose
-- memory is full.
local found = { redis.call('TIME') }
for i = 1, 3 do found[i + 1] = redis.call('HGETALL', KEYS[i]) end
local sum = redis.call('HGET', KEYS[4], 'sum')
found[5] = sum and { 'sum', sum } or {}
return found
