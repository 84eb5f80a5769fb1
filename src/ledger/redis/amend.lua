-- Corrects or closes a period. The same functions as `Book::refund` and `Book::close` in `../book.rs`, step for step: change both or neither.
-- `account.lua` comes before this.
--
-- KEYS[3]  the period's notes     refund:<id> = "amount reason", claim:<threshold> = who tells of it
-- ARGV     "refund" ends id amount reason, or "close" ends
--
-- Answers 1, or 0 for what was done before.

local what, ends = ARGV[1], tonumber(ARGV[2])

if what == 'refund' then
  local field, amount, reason = 'refund:' .. ARGV[3], tonumber(ARGV[4]), ARGV[5]
  if redis.call('HEXISTS', KEYS[3], field) == 1 then return 0 end
  if is_closed then return redis.error_reply('REFUSED ' .. period .. ' is closed: refund in a later month, or grant credits') end
  if amount == 0 or amount > net() or redis.call('HLEN', KEYS[3]) >= MOST_LINES then
    return redis.error_reply('REFUSED a refund is of some amount, of no more than the month cost, and one of 2 000 at most: grant credits instead')
  end

  local returned = math.min(less(amount, on_top()), drawn)
  charged, refunded = less(charged, amount), sum(refunded, amount)
  sort_grants()
  for i = #grants, 1, -1 do
    local grant = grants[i]
    local given = grant.expires > now and math.min(returned, less(grant.amount, grant.left)) or 0
    if given > 0 then
      grant.left, returned, drawn = sum(grant.left, given), returned - given, drawn - given
      write_grant(grant)
    end
  end
  redis.call('HSET', KEYS[3], field, text(amount) .. ' ' .. reason)
  redis.call('PEXPIREAT', KEYS[3], text(ends + KEEP_BOOKS))
  write(ends, false)
  return 1
end

if now < ends then return redis.error_reply('REFUSED ' .. period .. ' has not ended: it can be closed once it has') end
if is_closed then return 0 end
redis.call('HSET', KEYS[1], 'closed', period)
return 1
