-- Keeps the costs of requests.
--
-- KEYS[1]  the account's record
-- KEYS[2]  the costs of a day
--
-- ARGV[1]  the moment at which they go, in milliseconds since 1970
-- ARGV[2..] ids and costs
--
-- Answers 1, or 0 for an account that was erased.
if redis.call('HEXISTS', KEYS[1], ERASED) == 1 then return 0 end
redis.call('HSET', KEYS[2], unpack(ARGV, 2))
redis.call('PEXPIREAT', KEYS[2], ARGV[1])
return 1
