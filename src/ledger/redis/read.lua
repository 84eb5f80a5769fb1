-- Reads hashes of an account in one step: the server's clock in seconds and microseconds, then each key's fields and values. A transaction would be
-- refused by a server whose memory is full.
local found = { redis.call('TIME') }
for _, key in ipairs(KEYS) do found[#found + 1] = redis.call('HGETALL', key) end
return found
