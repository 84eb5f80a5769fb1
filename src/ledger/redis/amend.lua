-- Corrects or closes a period. The same functions as `Book::refund` and `Book::close` in `../book.rs`, step for step: change both or neither.
-- `account.lua` comes before this.
--
-- KEYS[3]  the period's notes     refund:<id> = "amount reason", claim:<threshold> = who tells of it
-- ARGV     "refund" ends id amount reason, or "close" ends
--
-- Answers 1, or 0 for what was done before.

local what, ends = ARGV[1], tonumber(ARGV[2])
local agreed = { included, beyond, seats_then }

if what == 'refund' then
  local field, amount, reason = 'refund:' .. ARGV[3], tonumber(ARGV[4]), ARGV[5]
  if redis.call('HEXISTS', KEYS[3], field) == 1 then return 0 end
  if is_closed then return redis.error_reply('REFUSED ' .. period .. ' is closed: refund in a later month, or grant credits') end
  if amount > less(used, refunded) or redis.call('HLEN', KEYS[3]) >= MOST_LINES then
    return redis.error_reply('REFUSED the month did not cost as much as is to be refunded, or has 2 000 refunds: grant credits')
  end

  refunded = sum(refunded, amount)
  local returned = less(drawn, less(less(used, refunded), included))
  drawn = less(drawn, returned)
  sort_grants()
  for i = #grants, 1, -1 do
    local grant = grants[i]
    local given = math.min(returned, less(grant.amount, grant.left))
    if given > 0 then
      grant.left, returned = sum(grant.left, given), returned - given
      write_grant(grant)
    end
  end
  redis.call('HSET', KEYS[3], field, text(amount) .. ' ' .. reason)
  redis.call('PEXPIREAT', KEYS[3], text(ends + KEEP_BOOKS))
  write(agreed, ends)
  return 1
end

if now < ends then return redis.error_reply('REFUSED ' .. period .. ' has not ended: it can be closed once it has') end
if is_closed then return 0 end
if used + late[3] > MOST then return redis.error_reply('TOOLARGE the total for the period') end
if has_late then
  add_late(now)
  write(agreed, ends)
end
redis.call('HSET', KEYS[1], 'closed', period)
return 1
