-- Renews a lease. The same function as `Book::renew` in `../book.rs`, step for step: change both or neither.
--
-- All amounts are whole nano-dollars up to 2^53 - 1, which a Lua number holds exactly; sums beyond that are brought back to it. Numbers are
-- written with `%.0f`, because `tostring` rounds to 14 digits. Everything is read and checked before the first write: an error in mid-script
-- would leave what was written before it.
--
-- KEYS[1]  the account's record   seats, limit, grant:<id> = "amount left expires", pledge:<period> = "amount until"
-- KEYS[2]  the period's book      total = "used held next drawn recovered", and its lines: <line> = "requests micros cost"
-- KEYS[3]  the period's leases    <lease> = "seq batch settled hold expires"
-- ARGV     lease seq batch settled keep refill need extra included per_seat pay_as_you_go ttl forget not_after period begins ends, then
--          four for each line: key requests micros cost
--
-- Answers "outcome now", and of a renewal also "hold used held limit included limited_by_owner ended".

local MOST, MOST_LINES, SHARE = 9007199254740991, 2000, 4
local EARLY, LATE = 60 * 1000, 62 * 24 * 60 * 60 * 1000
local KEEP_BOOKS = 396 * 24 * 60 * 60 * 1000
local FIRST_LINE = 18

local lease, period = ARGV[1], ARGV[15]
local a = {}
for i = 2, 17 do a[i] = tonumber(ARGV[i]) end
local seq, batch, settled, keep, refill, need, extra = a[2], a[3], a[4], a[5], a[6], a[7], a[8]
local terms_included, per_seat, terms_beyond, ttl = a[9], a[10] == 1, a[11], a[12]
local forget, not_after, begins, ends = a[13] == 1, a[14], a[16], a[17]

local function sum(x, y) return math.min(MOST, x + y) end
local function less(x, y) return math.max(0, x - y) end
local function text(x) return string.format('%.0f', x) end
local function words(s)
  local found = {}
  for word in string.gmatch(s, '%S+') do found[#found + 1] = tonumber(word) or word end
  return found
end

local now = clock()
if now > not_after then return 'late ' .. text(now) end
if now + EARLY < begins then return 'not-begun ' .. text(now) end
if now > ends + LATE then return 'closed ' .. text(now) end

-- Everything is read here.

local total = redis.call('HGET', KEYS[2], 'total')
local used, held, next, drawn, recovered = unpack(total and words(total) or { 0, 0, 0, 0, 0 })

local seats, own_limit, grants, pledges = 1, nil, {}, {}
local record = redis.call('HGETALL', KEYS[1])
for i = 1, #record, 2 do
  local field, value = record[i], record[i + 1]
  if field == 'seats' then seats = tonumber(value)
  elseif field == 'limit' then own_limit = tonumber(value)
  elseif string.sub(field, 1, 6) == 'grant:' then
    local w = words(value)
    grants[#grants + 1] = { field = field, amount = w[1], left = w[2], expires = w[3] == 'never' and math.huge or w[3] }
  elseif string.sub(field, 1, 7) == 'pledge:' then
    local w = words(value)
    pledges[string.sub(field, 8)] = { amount = w[1], till = w[2] }
  end
end

-- Entries are scanned only when a hold may have expired.
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
  if used + delta > MOST then return redis.error_reply('TOOLARGE the total for the period') end
end

-- From here on nothing fails; what changed is written as it changes.

local function included()
  return math.min(MOST, terms_included * (per_seat and seats or 1))
end

-- What is left of the grants that have not expired by `at`, but for what holds of other periods may draw.
local function purchased(at)
  local left, pledged = 0, 0
  for _, grant in ipairs(grants) do
    if grant.expires > at then left = sum(left, grant.left) end
  end
  for other, pledge in pairs(pledges) do
    if other ~= period and pledge.till > now then pledged = sum(pledged, pledge.amount) end
  end
  return less(left, pledged)
end

local function standing()
  local beyond = math.min(terms_beyond, own_limit or MOST)
  local limit = sum(sum(sum(included(), drawn), purchased(now)), beyond)
  return limit, beyond < terms_beyond
end

-- Lines that changed, and their keys in the order in which they came up.
local sums, touched = {}, {}

local function answer(outcome, hold)
  if scanned or news then
    local fields = { 'total', string.format('%.0f %.0f %.0f %.0f %.0f', used, held, next, drawn, recovered) }
    for _, key in ipairs(touched) do
      fields[#fields + 1] = key
      fields[#fields + 1] = string.format('%.0f %.0f %.0f', unpack(sums[key]))
    end
    redis.call('HSET', KEYS[2], unpack(fields))
    if not total then redis.call('PEXPIREAT', KEYS[2], text(ends + KEEP_BOOKS)) end
  end
  if outcome ~= 'renewed' then return outcome .. ' ' .. text(now) end
  local limit, by_owner = standing()
  return string.format('renewed %.0f %.0f %.0f %.0f %.0f %.0f %d %d', now, hold, used, held, limit, included(), by_owner and 1 or 0,
    now >= ends and 1 or 0)
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

local function line(key)
  if not sums[key] then
    local before = redis.call('HGET', KEYS[2], key)
    if not before then return nil end
    sums[key], touched[#touched + 1] = words(before), key
  end
  return sums[key]
end

if batch > e[2] and #ARGV >= FIRST_LINE then
  local lines = redis.call('HLEN', KEYS[2]) - (total and 1 or 0)
  for i = FIRST_LINE, #ARGV, 4 do
    local key = ARGV[i]
    local found = line(key)
    if not found and lines >= MOST_LINES then
      key = 'other'
      found = line(key)
    end
    if not found then
      found, lines = { 0, 0, 0 }, lines + 1
      sums[key], touched[#touched + 1] = found, key
    end
    for part = 1, 3 do found[part] = sum(found[part], tonumber(ARGV[i + part])) end
  end
end

-- Settle: included credits first, then purchased ones (the first to expire first), then pay-as-you-go. What was admitted on a grant before
-- it expired may still be drawn from it.
local grace = less(now, ttl)
local draw = math.min(less(delta, less(included(), less(used, drawn))), purchased(grace))
drawn = sum(drawn, draw)
used = used + delta
recovered = sum(recovered, less(delta, itemised))
if draw > 0 then
  table.sort(grants, function(x, y)
    if x.expires ~= y.expires then return x.expires < y.expires end
    return x.field < y.field
  end)
  for _, grant in ipairs(grants) do
    if grant.expires > grace and grant.left > 0 and draw > 0 then
      local taken = math.min(draw, grant.left)
      grant.left, draw = grant.left - taken, draw - taken
      local expires = grant.expires == math.huge and 'never' or text(grant.expires)
      redis.call('HSET', KEYS[1], grant.field, table.concat({ text(grant.amount), text(grant.left), expires }, ' '))
    end
  end
end

-- Hold: what is kept is kept by right; scarcity limits only what is more.
local others, limit = less(held, e[4]), standing()
local kept = math.min(keep, less(e[4], delta))
local available = less(less(less(limit, used), others), kept)
if now >= ends then need, extra = 0, 0 end
local more = math.min(sum(sum(keep - kept, refill), need), available)
local hold = kept + more + math.min(extra, math.floor((available - more) / SHARE))
held = sum(others, hold)
local expires = now + ttl
if hold > 0 and (next == 0 or expires < next) then next = expires end

-- What this period's holds may draw from purchased credits is pledged, so that another period does not hold it too.
local pledge = math.min(less(held, less(included(), less(used, drawn))), purchased(now))
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
