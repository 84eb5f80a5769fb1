-- Renews a lease. The same function as `Book::renew` in `../book.rs`, step for step: change both or neither. `account.lua` comes before this.
--
-- KEYS[3]  the period's leases    <lease> = "seq batch settled hold expires"
-- ARGV     lease seq batch settled keep refill need extra included per_seat pay_as_you_go ttl forget not_after begins ends, then
--          four for each line: key requests micros cost
--
-- Answers "outcome now", and of a renewal also "hold used held limit included limited_by_owner ended".

local SHARE = 4
local EARLY, LATE = 60 * 1000, 62 * 24 * 60 * 60 * 1000
local FIRST_LINE = 17

local lease = ARGV[1]
local a = {}
for i = 2, 16 do a[i] = tonumber(ARGV[i]) end
local seq, batch, settled, keep, refill, need, extra = a[2], a[3], a[4], a[5], a[6], a[7], a[8]
local ttl, forget, not_after, begins, ends = a[12], a[13] == 1, a[14], a[15], a[16]

if now > not_after then return 'late ' .. text(now) end
if now + EARLY < begins then return 'not-begun ' .. text(now) end
if now > ends + LATE then return 'closed ' .. text(now) end

-- Everything that was not read yet is read here. Entries are scanned only when a hold may have expired.
local expired, entry = {}, redis.call('HGET', KEYS[3], lease)
local scanned = next > 0 and next <= now
if scanned then
  next = 0
  local all = redis.call('HGETALL', KEYS[3])
  for i = 1, #all, 2 do
    local w = words(all[i + 1])
    if w[4] > 0 then
      if w[5] <= now then expired[#expired + 1] = { all[i], w }
      elseif next == 0 or w[5] < next then next = w[5] end
    end
  end
end
local known = entry and true or false
local e = known and words(entry) or { 0, 0, 0, 0, 0 }

local unknown_goodbye = forget and not known
local news = not unknown_goodbye and seq > e[1]
local brings_late = has_late and not is_closed and begins <= now and now < ends
local delta, itemised = 0, 0
if news then
  delta = less(settled, e[3])
  if batch > e[2] then
    for i = FIRST_LINE, #ARGV, 4 do itemised = sum(itemised, tonumber(ARGV[i + 3])) end
  end
  if itemised > delta then return redis.error_reply('REFUSED lines cost more than what is newly settled') end
  if is_closed then
    if late[3] + delta > MOST then return redis.error_reply('TOOLARGE what came late of closed months') end
  elseif used + delta > MOST or used + delta + (brings_late and late[3] or 0) > MOST then
    return redis.error_reply('TOOLARGE the total for the period')
  end
end

-- From here on nothing fails; what changed is written as it changes.

-- A month that has ended keeps its own terms.
local agreed = { included, beyond, seats_then }
if now < ends or seats_then == 0 then
  included = math.min(MOST, a[9] * (a[10] == 1 and seats or 1))
  beyond, seats_then = a[11], seats
end
if news then agreed = { included, beyond, seats_then } end

local function standing()
  local on_top = math.min(beyond, own_limit or MOST)
  local limit = sum(sum(sum(included, drawn), purchased(now)), on_top)
  return limit, on_top < beyond
end

local function answer(outcome, hold)
  if scanned or news then write(agreed, ends) end
  if outcome ~= 'renewed' then return outcome .. ' ' .. text(now) end
  local limit, by_owner = standing()
  return string.format('renewed %.0f %.0f %.0f %.0f %.0f %.0f %d %d', now, hold, less(used, refunded), held, limit, included,
    by_owner and 1 or 0, now >= ends and 1 or 0)
end

local function entry_text(seq, batch, settled, hold, expires)
  return string.format('%.0f %.0f %.0f %.0f %.0f', seq, batch, settled, hold, expires)
end

for _, gone in ipairs(expired) do
  local id, w = gone[1], gone[2]
  held = less(held, w[4])
  redis.call('HSET', KEYS[3], id, entry_text(w[1], w[2], w[3], 0, w[5]))
  if id == lease then e[4] = 0 end
end
if unknown_goodbye then return answer('forgotten') end
if seq < e[1] then return answer('superseded') end
if not news then return answer('renewed', e[4]) end

-- Settle: here or, where the month is closed, in a later one. What was admitted on a grant before it expired may still be drawn from it.
local brings_lines = batch > e[2] and #ARGV >= FIRST_LINE
if is_closed then
  if brings_lines then
    for i = FIRST_LINE, #ARGV, 4 do
      for part = 1, 2 do late[part] = sum(late[part], tonumber(ARGV[i + part])) end
    end
  end
  late[3] = sum(late[3], delta)
  if brings_lines or delta > 0 then redis.call('HSET', KEYS[1], 'late', string.format('%.0f %.0f %.0f', unpack(late))) end
else
  if brings_lines then
    local lines = redis.call('HLEN', KEYS[2]) - (total and 1 or 0)
    for i = FIRST_LINE, #ARGV, 4 do
      local key = ARGV[i]
      local found = line(key)
      if not found and lines >= MOST_LINES then
        key = 'other'
        found = line(key)
      end
      if not found then found, lines = new_line(key), lines + 1 end
      for part = 1, 3 do found[part] = sum(found[part], tonumber(ARGV[i + part])) end
    end
  end
  local grace = less(now, ttl)
  if brings_late then add_late(grace) end
  debit(delta, grace)
  recovered = sum(recovered, less(delta, itemised))
end

-- Hold: what is kept is kept by right; scarcity limits only what is more. What is settled of a closed month is paid in another.
local others, limit = less(held, e[4]), standing()
local kept = math.min(keep, less(e[4], delta))
local available = is_closed and 0 or less(less(less(limit, less(used, refunded)), others), kept)
if now >= ends then need, extra = 0, 0 end
local more = math.min(sum(sum(keep - kept, refill), need), available)
local hold = kept + more + math.min(extra, math.floor((available - more) / SHARE))
held = sum(others, hold)
local expires = now + ttl
if hold > 0 and (next == 0 or expires < next) then next = expires end

-- What this period's holds may draw from purchased credits is pledged, so that another period does not hold it too.
local pledge = math.min(less(held, included_left()), purchased(now))
for other, was in pairs(pledges) do
  if (other == period and pledge == 0) or (other ~= period and was.till <= now) then redis.call('HDEL', KEYS[1], 'pledge:' .. other) end
end
if pledge > 0 then redis.call('HSET', KEYS[1], 'pledge:' .. period, text(pledge) .. ' ' .. text(expires)) end

if forget and hold == 0 and delta == 0 then
  redis.call('HDEL', KEYS[3], lease)
  return answer('forgotten')
end
redis.call('HSET', KEYS[3], lease, entry_text(seq, math.max(batch, e[2]), math.max(settled, e[3]), hold, expires))
if not known then redis.call('PEXPIREAT', KEYS[3], text(ends + LATE)) end
return answer('renewed', hold)
