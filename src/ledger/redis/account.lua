-- What every script begins with: an account's record and one period's totals are read, and how they change is said once.
--
-- All amounts are whole nano-dollars up to 2^53 - 1, which a Lua number holds exactly; sums beyond that are brought back to it. Numbers are
-- written with `%.0f`, because `tostring` rounds to 14 digits. What decides is read and checked before the first write: an error in mid-script
-- would leave what was written before it.
--
-- KEYS[1]  the account's record   seats, limit, closed, grant:<id> = "amount left expires", pledge:<period> = "amount until"
-- KEYS[2]  the period's book      total = "used held next drawn charged recovered refunded", terms = "included per_seat pay_as_you_go seats said",
--                                 where they are known (pay_as_you_go: `*` where it has no limit; said: in seconds), and its lines: <line> = "requests micros cost". Values of more than 64 bytes would take
--                                 twice the memory.

local MOST, MOST_LINES = 9007199254740991, 2000
local KEEP_BOOKS = 396 * 24 * 60 * 60 * 1000

local function sum(x, y) return math.min(MOST, x + y) end
local function less(x, y) return math.max(0, x - y) end
local function text(x) return string.format('%.0f', x) end
local function words(s)
  local found = {}
  for word in string.gmatch(s, '%S+') do found[#found + 1] = tonumber(word) or word end
  return found
end

local now = clock()

-- A book that is open: its key, its period, and its totals and terms as they were, which are false where there are none yet.
local book, period, total, terms
local used, held, next, drawn, charged, recovered, refunded
-- The terms that count.
local included_each, per_seat, pay_as_you_go, seats_then, said

-- Lines that changed, and their keys in the order in which they came up.
local sums, touched

local function open(key)
  book, period, sums, touched = key, string.sub(key, -7), {}, {}
  local found = redis.call('HMGET', key, 'total', 'terms')
  total, terms = found[1], found[2]
  used, held, next, drawn, charged, recovered, refunded = unpack(total and words(total) or { 0, 0, 0, 0, 0, 0, 0 })
  included_each, per_seat, pay_as_you_go, seats_then, said = unpack(terms and words(terms) or { 0, 0, 0, 0, 0 })
  if pay_as_you_go == '*' then pay_as_you_go = MOST end
end

open(KEYS[2])

local seats, own_limit, closed, grants, pledges = 1, nil, '', {}, {}
local record = redis.call('HGETALL', KEYS[1])
for i = 1, #record, 2 do
  local field, value = record[i], record[i + 1]
  if field == 'seats' then seats = tonumber(value)
  elseif field == 'limit' then own_limit = tonumber(value)
  elseif field == 'closed' then closed = value
  elseif string.sub(field, 1, 6) == 'grant:' then
    local w = words(value)
    grants[#grants + 1] = { field = field, amount = w[1], left = w[2], expires = w[3] == 'never' and math.huge or w[3] }
  elseif string.sub(field, 1, 7) == 'pledge:' then
    local w = words(value)
    pledges[string.sub(field, 8)] = { amount = w[1], till = w[2] }
  end
end
local is_closed = period <= closed

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

local function included() return math.min(MOST, included_each * (per_seat == 1 and seats_then or 1)) end
local function net() return less(used, refunded) end
local function included_left() return less(included(), less(net(), drawn)) end

-- What of the month's cost is charged on top: what was when it was debited, as far as included credits do not cover it since.
local function on_top() return math.min(charged, less(less(net(), drawn), included())) end
local function most_on_top() return math.min(pay_as_you_go, own_limit or MOST) end

-- The first to expire first.
local function sort_grants()
  table.sort(grants, function(x, y)
    if x.expires ~= y.expires then return x.expires < y.expires end
    return x.field < y.field
  end)
end

local function write_grant(grant)
  local expires = grant.expires == math.huge and 'never' or text(grant.expires)
  redis.call('HSET', KEYS[1], grant.field, table.concat({ text(grant.amount), text(grant.left), expires }, ' '))
end

-- Debits: included credits first, then purchased ones that had not expired by `grace`, then pay-as-you-go as far as that goes.
local function debit(delta, grace)
  local rest = less(delta, included_left())
  local draw = math.min(rest, purchased(grace))
  charged = sum(charged, math.min(rest - draw, less(most_on_top(), on_top())))
  drawn = sum(drawn, draw)
  used = sum(used, delta)
  if draw == 0 then return end
  sort_grants()
  for _, grant in ipairs(grants) do
    if grant.expires > grace and grant.left > 0 and draw > 0 then
      local taken = math.min(draw, grant.left)
      grant.left, draw = grant.left - taken, draw - taken
      write_grant(grant)
    end
  end
end

local function line(key)
  if not sums[key] then
    local before = redis.call('HGET', book, key)
    if not before then return nil end
    sums[key], touched[#touched + 1] = words(before), key
  end
  return sums[key]
end

local function new_line(key)
  sums[key], touched[#touched + 1] = { 0, 0, 0 }, key
  return sums[key]
end

-- Writes the totals, the terms where they changed, and the lines that did.
local function write(ends, changed)
  local fields = { 'total', string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f', used, held, next, drawn, charged, recovered, refunded) }
  if changed then
    fields[3] = 'terms'
    local most = pay_as_you_go == MOST and '*' or text(pay_as_you_go)
    fields[4] = string.format('%.0f %.0f %s %.0f %.0f', included_each, per_seat, most, seats_then, said)
  end
  for _, key in ipairs(touched) do
    fields[#fields + 1] = key
    fields[#fields + 1] = string.format('%.0f %.0f %.0f', unpack(sums[key]))
  end
  redis.call('HSET', book, unpack(fields))
  if not total then redis.call('PEXPIREAT', book, text(ends + KEEP_BOOKS)) end
end

