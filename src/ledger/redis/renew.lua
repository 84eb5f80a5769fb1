-- Renews a lease. The same function as `Book::renew` in `../book.rs`, step for step: change both or neither. `account.lua` comes before this.
--
-- KEYS[3]  the period's leases    <lease> = "seq batch settled hold expires"
-- KEYS[4]  where the ledger's clock says a later period: the book of that, in which what comes late of a closed one is debited
-- ARGV     lease seq batch settled keep refill need extra included per_seat pay_as_you_go said ttl forget not_after begins ends late_ends,
--          then four for each line: key requests micros cost
--
-- Answers "outcome now", and of a renewal also "hold used held limit included limited_by_owner ended".

local SHARE = 4
local EARLY, LATE = 60 * 1000, 62 * 24 * 60 * 60 * 1000
local FIRST_LINE = 19
local SAID_AGAIN = 10

local lease = ARGV[1]
local a = {}
for i = 2, 18 do a[i] = tonumber(ARGV[i]) end
local seq, batch, settled, keep, refill, need, extra = a[2], a[3], a[4], a[5], a[6], a[7], a[8]
local ttl, forget, not_after, begins, ends, late_ends = a[13], a[14] == 1, a[15], a[16], a[17], a[18]

if now > not_after then return 'late ' .. text(now) end
if now + EARLY < begins then return 'not-begun ' .. text(now) end
if now > ends + LATE then return 'closed ' .. text(now) end
if is_closed and (not KEYS[4] or string.sub(KEYS[4], -7) <= closed) then return 'late ' .. text(now) end

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
local delta, itemised = 0, 0
if news then
  delta = less(settled, e[3])
  if batch > e[2] then
    for i = FIRST_LINE, #ARGV, 4 do itemised = sum(itemised, tonumber(ARGV[i + 3])) end
  end
  if itemised > delta then return redis.error_reply('REFUSED lines cost more than what is newly settled') end
  local of = used
  if is_closed then
    local other = redis.call('HGET', KEYS[4], 'total')
    of = other and words(other)[1] or 0
  end
  if of + delta > MOST then return redis.error_reply('TOOLARGE the total for the period') end
end

-- From here on nothing fails; what changed is written as it changes.

-- Of a month that has ended its own terms count, else the newest that were said; those that are as before are noted now and then.
local changed = false
if now < ends or not terms then
  local same = a[9] == included_each and a[10] == per_seat and a[11] == pay_as_you_go
  if not terms or (a[12] >= said and (not same or a[12] >= said + SAID_AGAIN)) then
    included_each, per_seat, pay_as_you_go, said, changed = a[9], a[10], a[11], a[12], true
  end
  if seats_then ~= seats then seats_then, changed = seats, true end
end

local function standing()
  if is_closed then return net() end
  return sum(sum(sum(included(), drawn), purchased(now)), most_on_top())
end

local function answer(outcome, hold)
  if scanned or news then write(ends, changed and news and not is_closed) end
  if outcome ~= 'renewed' then return outcome .. ' ' .. text(now) end
  return string.format('renewed %.0f %.0f %.0f %.0f %.0f %.0f %d %d', now, hold, net(), held, standing(), included(),
    most_on_top() < pay_as_you_go and 1 or 0, now >= ends and 1 or 0)
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

-- Settle. What was admitted on a grant before it expired may still be drawn from it.
local brings_lines, grace = batch > e[2] and #ARGV >= FIRST_LINE, less(now, ttl)
if not is_closed then
  if brings_lines then
    local lines = redis.call('HLEN', KEYS[2]) - (total and 1 or 0) - (terms and 1 or 0)
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
  debit(delta, grace)
  recovered = sum(recovered, less(delta, itemised))
end

-- Hold: what is kept is kept by right; scarcity limits only what is more.
local others, limit = less(held, e[4]), standing()
local kept = math.min(keep, less(e[4], delta))
local available = less(less(less(limit, net()), others), kept)
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
pledges[period] = pledge > 0 and { amount = pledge, till = expires } or nil
if pledge > 0 then redis.call('HSET', KEYS[1], 'pledge:' .. period, text(pledge) .. ' ' .. text(expires)) end

local answered
if forget and hold == 0 and delta == 0 then
  redis.call('HDEL', KEYS[3], lease)
  answered = answer('forgotten')
else
  redis.call('HSET', KEYS[3], lease, entry_text(seq, math.max(batch, e[2]), math.max(settled, e[3]), hold, expires))
  if not known then redis.call('PEXPIREAT', KEYS[3], text(ends + LATE)) end
  answered = answer('renewed', hold)
end

-- What comes late of a closed month is debited in a later one.
if is_closed and (brings_lines or delta > 0) then
  open(KEYS[4])
  if not terms then included_each, per_seat, pay_as_you_go, seats_then, said = a[9], a[10], a[11], seats, a[12] end
  local found = line('late') or new_line('late')
  if brings_lines then
    for i = FIRST_LINE, #ARGV, 4 do
      for part = 1, 2 do found[part] = sum(found[part], tonumber(ARGV[i + part])) end
    end
  end
  found[3] = sum(found[3], delta)
  debit(delta, grace)
  write(late_ends, not terms)
end
return answered
