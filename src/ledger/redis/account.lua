-- What every script begins with: an account's keys are read and checked, and how its totals change is said once.
--
-- All amounts are whole nano-dollars up to 2^53 - 1, which a Lua number holds exactly; sums beyond that are brought back to it. Numbers are
-- written with `%.0f`, because `tostring` rounds to 14 digits. Everything is read and checked before the first write: an error in mid-script
-- would leave what was written before it.
--
-- KEYS[1]  the account's record   seats, limit, closed, erased, grant:<id> = "amount left expires", pledge:<period> = "amount until",
--                                 drawn:<period> = what the period drew from the grants, as its book has it too
-- KEYS[2]  its spent grants       grant:<id> = "amount left expires"
-- a book   a period's totals      total = "used drawn charged recovered refunded settled forgotten lines",
--                                 terms = "included per_seat pay_as_you_go seats said", where they are known (pay_as_you_go: `*` where it has no
--                                 limit; said: in seconds), refund:<id> = "amount reason", to = "month amount month amount ..", what was settled
--                                 here and debited in other months, from = the same, seen from those; and its lines: <line> = "requests micros cost". Values
--                                 of more than 64 bytes would take twice the memory.

local MOST = 9007199254740991
local DAY = 24 * 60 * 60 * 1000
local KEEP_BOOKS, LATE, EARLY = 396 * DAY, 62 * DAY, 60 * 1000
local KEEP_ERASED = 31 * DAY + LATE
local LONGEST_HOLD, BEHIND_FOR = DAY, 60 * 60 * 1000
local MOST_DRAWN = 14

local function sum(x, y) return math.min(MOST, x + y) end
local function less(x, y) return math.max(0, x - y) end
local function text(x) return string.format('%.0f', x) end

local now = clock()

-- The end of a hold or a pledge that counts; one that is too far away was made when the clock was ahead of what it is.
local function is_live(till) return now < till and till <= now + LONGEST_HOLD end

-- The first thing that is wrong with what was read.
local wrong
local NOTHING = { 0, 0, 0, 0, 0, 0, 0, 0 }

local function malformed(key, field, value, wanted)
  wrong = wrong or string.format('%s %s "%s": write %s', key, field, value, wanted)
end

local function read(command, key, ...)
  local found = redis.pcall(command, key, ...)
  if type(found) == 'table' and found.err then
    wrong = wrong or key .. ' is no hash: ' .. found.err
    return {}
  end
  return found
end

local PATTERNS = { '^(%d+)$' }
for count = 2, 8 do PATTERNS[count] = '^' .. string.rep('(%d+) ', count - 1) .. '(%d+)$' end

-- So many whole numbers; `wanted` names them, each by a word.
local function numbers(key, field, value, count, wanted)
  if not value then return NOTHING end
  local found = { string.match(value, PATTERNS[count]) }
  for i = 1, count do
    local n = tonumber(found[i])
    if not n or n > MOST then
      malformed(key, field, value, wanted)
      return NOTHING
    end
    found[i] = n
  end
  return found
end

-- The account's record.
local seats, own_limit, closed, erased, grants, pledges, drawn_by = 1, nil, '', nil, {}, {}, {}
-- What of it changed, as fields and values, and what goes.
local record_changed, record_gone = {}, {}

local function change_record(field, value)
  record_changed[#record_changed + 1], record_changed[#record_changed + 2] = field, value
end

local function read_grant(key, field, value)
  local amount, left, expires = string.match(value, '^(%d+) (%d+) (%w+)$')
  amount, left = tonumber(amount), tonumber(left)
  expires = expires == 'never' and math.huge or tonumber(expires)
  if not (amount and left and expires) or amount > MOST or left > MOST then
    malformed(key, field, value, '"amount left expires", with `never` for one that does not expire')
    return
  end
  return { field = field, amount = amount, left = left, expires = expires }
end

local function read_record()
  local key = KEYS[1]
  local record = read('HGETALL', key)
  for i = 1, #record, 2 do
    local field, value = record[i], record[i + 1]
    if field == 'seats' then
      seats = numbers(key, field, value, 1, 'a whole number from 1 on')[1]
      if seats == 0 or seats > 4294967295 then malformed(key, field, value, 'a whole number from 1 on') end
    elseif field == 'limit' then own_limit = numbers(key, field, value, 1, 'nano-dollars')[1]
    elseif field == 'closed' then
      closed = value
      if not string.match(value, '^%d%d%d%d%-%d%d$') then malformed(key, field, value, 'a month like 2026-11') end
    elseif field == 'erased' then
      local at = numbers(key, field, value, 1, 'milliseconds since 1970')[1]
      erased = now < at + KEEP_ERASED
    elseif string.sub(field, 1, 6) == 'grant:' then
      grants[#grants + 1] = read_grant(key, field, value)
    elseif string.sub(field, 1, 7) == 'pledge:' then
      local pledge = numbers(key, field, value, 2, '"amount until"')
      pledges[string.sub(field, 8)] = { amount = pledge[1], till = pledge[2] }
    elseif string.sub(field, 1, 6) == 'drawn:' then
      drawn_by[string.sub(field, 7)] = numbers(key, field, value, 1, 'nano-dollars')[1]
    end
  end
end

-- A call takes some thousands of arguments at most.
local CHUNK = 1000

local function in_chunks(command, key, arguments)
  for from = 1, #arguments, CHUNK do
    redis.call(command, key, unpack(arguments, from, math.min(#arguments, from + CHUNK - 1)))
  end
end

local function write_record()
  in_chunks('HDEL', KEYS[1], record_gone)
  in_chunks('HSET', KEYS[1], record_changed)
end

local TOTAL = '"used drawn charged recovered refunded settled forgotten lines", in nano-dollars and a count'
local TERMS = '"included per_seat pay_as_you_go seats said"'
local LINE = '"requests micros cost"'
local SUM_BESIDE = '"settled forgotten behind_until moved"'

-- A book, of what HMGET found under `total`, `terms` and the names of some lines.
local function open(key, found, names)
  local b = { key = key, period = string.sub(key, -7), is_new = not found[1], has_terms = found[2] and true or false, sums = {}, touched = {} }
  b.used, b.drawn, b.charged, b.recovered, b.refunded, b.settled, b.forgotten, b.lines = unpack(numbers(key, 'total', found[1], 8, TOTAL))
  local unbounded = found[2] and string.gsub(found[2], '%*', '9007199254740991', 1)
  b.included_each, b.per_seat, b.pay_as_you_go, b.seats, b.said = unpack(numbers(key, 'terms', unbounded, 5, TERMS))
  for i, name in ipairs(names) do
    local value = found[i + 2]
    if value then b.sums[name] = numbers(key, name, value, 3, LINE) end
  end
  return b
end

-- What was moved between months, by the other month.
local function read_moved(key, field, value)
  local moved = {}
  if value and string.gsub(value, '%d%d%d%d%-%d%d %d+ ?', '') ~= '' then malformed(key, field, value, '"month amount"') end
  for month, amount in string.gmatch(value or '', '(%S+) (%d+)') do moved[month] = numbers(key, field, amount, 1, '"month amount"')[1] end
  return moved
end

local function moved_text(moved)
  local words = {}
  for month, amount in pairs(moved) do words[#words + 1] = month .. ' ' .. text(amount) end
  return table.concat(words, ' ')
end

-- Says if nothing was ever settled or put on hold; or the book was lost.
local function is_blank(b) return b.used == 0 and b.settled == 0 and not b.has_terms end

-- What is left of the grants that have not expired by `at`, but for what holds of other periods than the book's may draw.
local function purchased(b, at)
  local left, pledged = 0, 0
  for _, grant in ipairs(grants) do
    if grant.expires > at then left = sum(left, grant.left) end
  end
  for other, pledge in pairs(pledges) do
    if other ~= b.period and is_live(pledge.till) then pledged = sum(pledged, pledge.amount) end
  end
  return less(left, pledged)
end

local function included(b) return math.min(MOST, b.included_each * (b.per_seat == 1 and b.seats or 1)) end
local function net(b) return less(b.used, b.refunded) end

-- What is left of the included credits, and of what was drawn for usage that was refunded since.
local function included_left(b) return less(sum(included(b), b.drawn), net(b)) end

-- What of the month's cost is charged on top: what was when it was debited, as far as included credits do not cover it since.
local function on_top(b) return math.min(b.charged, less(less(net(b), b.drawn), included(b))) end
local function most_on_top(b) return math.min(b.pay_as_you_go, own_limit or MOST) end

-- The first to expire first.
local function sort_grants(of)
  table.sort(of, function(x, y)
    if x.expires ~= y.expires then return x.expires < y.expires end
    return x.field < y.field
  end)
end

local function grant_text(grant)
  return table.concat({ text(grant.amount), text(grant.left), grant.expires == math.huge and 'never' or text(grant.expires) }, ' ')
end

-- Notes what a period drew from the grants. Only of the last of them that is known.
local function note_drawn(period, amount)
  drawn_by[period] = amount
  change_record('drawn:' .. period, text(amount))
  local count, first = 0, nil
  for other in pairs(drawn_by) do
    count = count + 1
    if not first or other < first then first = other end
  end
  if count > MOST_DRAWN then
    drawn_by[first] = nil
    record_gone[#record_gone + 1] = 'drawn:' .. first
  end
end

-- Takes up to `amount` from the grants that have not expired by `at`. Answers how much it got.
local function draw(b, amount, at)
  if amount == 0 then return 0 end
  local rest = amount
  sort_grants(grants)
  for _, grant in ipairs(grants) do
    if grant.expires > at and grant.left > 0 and rest > 0 then
      local taken = math.min(rest, grant.left)
      grant.left, rest = grant.left - taken, rest - taken
      change_record(grant.field, grant_text(grant))
    end
  end
  if rest < amount then note_drawn(b.period, sum(drawn_by[b.period] or 0, amount - rest)) end
  return amount - rest
end

-- Makes the grants and the book agree on what was drawn: what either knows was. Answers if the book changed.
local function match_drawn(b, at)
  local before, noted = b.drawn, drawn_by[b.period] or 0
  b.drawn = math.max(before, noted)
  draw(b, less(b.drawn, noted), at)
  return b.drawn ~= before
end

-- Debits: included credits first, then purchased ones that had not expired by `grace`, then pay-as-you-go as far as that goes.
local function debit(b, delta, grace)
  local rest = less(delta, included_left(b))
  local from_grants = math.min(rest, purchased(b, grace))
  local room = less(most_on_top(b), on_top(b))
  b.drawn = sum(b.drawn, draw(b, from_grants, grace))
  b.charged = sum(b.charged, math.min(rest - from_grants, room))
  b.used = sum(b.used, delta)
end

-- What the leases account for and the book does not: a write was torn. Of a book that was lost nobody knows the terms, before a request or whoever
-- reads the statement says them.
local function lacking_of(b, settled_beside)
  return is_blank(b) and 0 or math.min(less(settled_beside, b.settled), MOST - b.used)
end

-- Debits what it lacks. Answers if the book changed.
local function heal(b, lacking)
  local changed = match_drawn(b, now) or lacking > 0
  b.settled = sum(b.settled, lacking)
  debit(b, lacking, now)
  b.recovered = sum(b.recovered, lacking)
  return changed
end

-- The line of this name, made where there is none.
local function line(b, name)
  if not b.sums[name] then b.sums[name], b.lines = { 0, 0, 0 }, b.lines + 1 end
  b.touched[name] = true
  return b.sums[name]
end

-- Writes the totals, the terms where they changed, the lines that did, and what else is given as fields and values.
local function write_book(b, ends, terms_changed, fields)
  local count = #fields
  fields[count + 1], fields[count + 2] = 'total', string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f',
    b.used, b.drawn, b.charged, b.recovered, b.refunded, b.settled, b.forgotten, b.lines)
  if terms_changed then
    local most = b.pay_as_you_go == MOST and '*' or text(b.pay_as_you_go)
    fields[count + 3], fields[count + 4] = 'terms', string.format('%.0f %.0f %s %.0f %.0f', b.included_each, b.per_seat, most, b.seats, b.said)
  end
  for name in pairs(b.touched) do
    fields[#fields + 1] = name
    fields[#fields + 1] = string.format('%.0f %.0f %.0f', unpack(b.sums[name]))
  end
  redis.call('HSET', b.key, unpack(fields))
  if b.is_new then redis.call('PEXPIREAT', b.key, text(ends + KEEP_BOOKS)) end
end
