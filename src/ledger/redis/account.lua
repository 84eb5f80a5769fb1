-- The beginning of every script that changes an account: reads and checks the account's keys, and
-- has the functions that change its totals. Rust writes the constants in capital letters into the
-- text; see `script.rs`. docs/redis-schema.md describes the keys.
--
-- All amounts are whole nano-dollars up to 2^53 - 1, which a Lua number holds exactly; larger sums
-- are reduced to it. Numbers are written with `%.0f`, because `tostring` rounds to 14 digits.
-- Everything is read and checked before the first write: an error in the middle of a script would
-- leave what was written before it. Values of more than 64 bytes would take twice the memory.
--
-- KEYS[1]  the account's record
-- KEYS[2]  its spent grants

local function add(x, y) return math.min(MAX_AMOUNT, x + y) end
local function subtract(x, y) return math.max(0, x - y) end
local function text(x) return string.format('%.0f', x) end

local now = clock()

-- True if what lasts until this moment still counts. A moment that is too far away was set when the
-- clock was ahead.
local function is_live(moment) return now < moment and moment <= now + MAX_HOLD_LIFETIME end

-- The first error in what was read.
local wrong
local NOTHING = { 0, 0, 0, 0, 0, 0, 0, 0 }

local function note_malformed(key, field, value, wanted)
  wrong = wrong or string.format('%s %s "%s": write %s', key, field, value, wanted)
end

local function malformed() return redis.error_reply(MALFORMED .. ' ' .. wrong) end
local function refused(why) return redis.error_reply(REFUSED .. ' ' .. why) end

local function read(command, key, ...)
  local found = redis.pcall(command, key, ...)
  if type(found) == 'table' and found.err then
    wrong = wrong or key .. ' is not a hash: restore or delete it (' .. found.err .. ')'
    return {}
  end
  return found
end

local PATTERNS = { '^(%d+)$', '^(%d+) (%d+)$', '^(%d+) (%d+) (%d+)$', '^(%d+) (%d+) (%d+) (%d+)$',
  '^(%d+) (%d+) (%d+) (%d+) (%d+)$', nil, nil,
  '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$' }

-- Parses `count` whole numbers; zeros if there is no value. `wanted` tells the operator what to
-- write.
local function numbers(key, field, value, count, wanted)
  if not value then return NOTHING end
  local found = { string.match(value, PATTERNS[count]) }
  for i = 1, count do
    local n = tonumber(found[i])
    if not n or n > MAX_AMOUNT then
      note_malformed(key, field, value, wanted)
      return NOTHING
    end
    found[i] = n
  end
  return found
end

-- The account's record.
local seats, spending_limit, closed, erased = 1, nil, '', nil
-- The most that the account may use on a day, what it used on the last one, and which that was.
local per_day, last_day, used_on_last_day = nil, 0, 0
local grants, reserved, purchased_used_by, rates = {}, {}, {}, {}
-- What few accounts have: the credits that are included each day, by month, with their functions,
-- and the shares that leases have of the requests that may run at the same time.
local day_credits, shares, days, DAYS
-- Its changes: fields and values to write, and fields to delete.
local record_changes, record_deletions = {}, {}

local function change_record(field, value)
  local count = #record_changes
  record_changes[count + 1], record_changes[count + 2] = field, value
end

local function delete_from_record(field) record_deletions[#record_deletions + 1] = field end

local function read_grant(key, field, value)
  local amount, left, expires = string.match(value, '^(%d+) (%d+) (%w+)$')
  amount, left = tonumber(amount), tonumber(left)
  expires = expires == NEVER and math.huge or tonumber(expires)
  if not (amount and left and expires) or amount > MAX_AMOUNT or left > MAX_AMOUNT then
    note_malformed(key, field, value,
      '"amount left expires", with `' .. NEVER .. '` if it does not expire')
    return
  end
  return { field = field, amount = amount, left = left, expires = expires }
end

local function has_prefix(field, prefix) return string.sub(field, 1, #prefix) == prefix end

local function read_record_field(key, field, value)
  if field == SEATS then
    seats = numbers(key, field, value, 1, SEATS_FORM)[1]
    if seats == 0 or seats > MAX_SEATS then note_malformed(key, field, value, SEATS_FORM) end
  elseif field == LIMIT then
    spending_limit = numbers(key, field, value, 1, 'nano-dollars')[1]
  elseif field == CLOSED then
    closed = value
    if not string.match(value, '^%d%d%d%d%-%d%d$') then
      note_malformed(key, field, value, 'a month like 2026-11')
    end
  elseif field == PER_DAY then
    per_day = numbers(key, field, value, 1, 'nano-dollars')[1]
  elseif field == TODAY then
    last_day, used_on_last_day = unpack(numbers(key, field, value, 2, '"day used"'))
  elseif field == ERASED then
    local at = numbers(key, field, value, 1, 'milliseconds since 1970')[1]
    erased = now < at + ERASED_FOR
  elseif has_prefix(field, RATE) then
    local found = numbers(key, field, value, 2, '"at used"')
    rates[string.sub(field, #RATE + 1)] = { at = found[1], used = found[2] }
  elseif has_prefix(field, DAY_CREDITS) then
    local found = numbers(key, field, value, 4, '"each covered day today"')
    day_credits = day_credits or {}
    day_credits[string.sub(field, #DAY_CREDITS + 1)] =
      { each = found[1], covered = found[2], day = found[3], today = found[4] }
  elseif has_prefix(field, SHARE) then
    local found = numbers(key, field, value, 2, '"count expires"')
    shares = shares or {}
    shares[string.sub(field, #SHARE + 1)] = { count = found[1], expires = found[2] }
  elseif has_prefix(field, GRANT) then
    grants[#grants + 1] = read_grant(key, field, value)
  elseif has_prefix(field, RESERVED) then
    local found = numbers(key, field, value, 2, '"amount until"')
    reserved[string.sub(field, #RESERVED + 1)] = { amount = found[1], ends = found[2] }
  elseif has_prefix(field, PURCHASED_USED) then
    local amount = numbers(key, field, value, 1, 'nano-dollars')[1]
    purchased_used_by[string.sub(field, #PURCHASED_USED + 1)] = amount
  end
end

local function read_record()
  local key = KEYS[1]
  local record = read('HGETALL', key)
  for i = 1, #record, 2 do read_record_field(key, record[i], record[i + 1]) end
  if day_credits then DAYS = days() end
end

-- A call takes some thousands of arguments at most.
local CHUNK = 1000

local function in_chunks(command, key, arguments)
  for from = 1, #arguments, CHUNK do
    redis.call(command, key, unpack(arguments, from, math.min(#arguments, from + CHUNK - 1)))
  end
end

local function write_record()
  in_chunks('HDEL', KEYS[1], record_deletions)
  in_chunks('HSET', KEYS[1], record_changes)
end

-- Makes a book of what HMGET found under TOTAL, TERMS and the names of some lines. Its month ends
-- at `ends`.
local function open_book(key, found, names, ends)
  local terms = found[2]
  local b = {
    key = key,
    ends = ends,
    period = string.sub(key, -7),
    is_new = not found[1],
    has_terms = terms and true or false,
    lines = {},
    changed_lines = {},
  }
  b.used, b.purchased_used, b.charged, b.recovered, b.refunded, b.settled, b.forgotten,
    b.line_count = unpack(numbers(key, TOTAL, found[1], 8, FORM_TOTAL))
  terms = terms and string.gsub(terms, UNLIMITED_PATTERN, text(MAX_AMOUNT), 1)
  b.included_each, b.per_seat, b.max_pay_as_you_go, b.seats, b.stated_at =
    unpack(numbers(key, TERMS, terms, 5, FORM_TERMS))
  b.included_per_day = DAYS and b.has_terms and DAYS.of(b.period).each or 0
  for i, name in ipairs(names) do
    local value = found[i + 2]
    if value then b.lines[name] = numbers(key, name, value, 3, FORM_LINE) end
  end
  return b
end

-- Amounts that were moved between months, by the other month.
local function read_moved(key, field, value)
  local moved = {}
  if value and string.gsub(value, '%d%d%d%d%-%d%d %d+ ?', '') ~= '' then
    note_malformed(key, field, value, FORM_MOVED)
  end
  for month, amount in string.gmatch(value or '', '(%S+) (%d+)') do
    moved[month] = numbers(key, field, amount, 1, FORM_MOVED)[1]
  end
  return moved
end

local function moved_text(moved)
  local words = {}
  for month, amount in pairs(moved) do words[#words + 1] = month .. ' ' .. text(amount) end
  return table.concat(words, ' ')
end

-- True if nothing was ever settled or put on hold; also if the book was lost.
local function is_empty(b) return b.used == 0 and b.settled == 0 and not b.has_terms end

-- Purchased credits that are left of grants valid at a moment, without those that holds of other
-- periods than the book's may use.
local function purchased_available(b, valid_at)
  local left, taken = 0, 0
  for _, grant in ipairs(grants) do
    if grant.expires > valid_at then left = add(left, grant.left) end
  end
  for month, reservation in pairs(reserved) do
    if month ~= b.period and is_live(reservation.ends) then
      taken = add(taken, reservation.amount)
    end
  end
  return subtract(left, taken)
end

local function for_seats(b, credits)
  return math.min(MAX_AMOUNT, credits * (b.per_seat == 1 and b.seats or 1))
end

-- The month's included credits.
local function included(b) return for_seats(b, b.included_each) end

-- The month's cost: what was used, less refunds.
local function net(b) return subtract(b.used, b.refunded) end

-- Included credits of the month that are left, and purchased ones whose usage was refunded since,
-- if the credits of its days paid for `covered`.
local function included_left(b, covered)
  return subtract(add(add(included(b), covered), b.purchased_used), net(b))
end

-- The functions of credits that are included each day.
function days()
  day_credits = day_credits or {}
  local self = {}
  local none = { each = 0, covered = 0, day = 0, today = 0 }

  function self.of(month) return day_credits[month] or none end

  -- Notes a month's state, and forgets the oldest month if there are too many.
  function self.note(month, state)
    local before = self.of(month)
    if state.each == before.each and state.covered == before.covered and state.day == before.day
      and state.today == before.today then
      return
    end
    day_credits[month] = state
    change_record(DAY_CREDITS .. month, string.format('%.0f %.0f %.0f %.0f', state.each,
      state.covered, state.day, state.today))
    local count, first = 0, nil
    for other in pairs(day_credits) do
      count = count + 1
      if not first or other < first then first = other end
    end
    if count > MAX_PURCHASED_USED_PERIODS then
      day_credits[first] = nil
      delete_from_record(DAY_CREDITS .. first)
    end
  end

  -- The state of the day's credits. What nobody has paid for yet is paid by those of a new day
  -- first.
  function self.state(b)
    local known = self.of(b.period)
    local day = math.floor(math.min(now, b.ends - 1) / 86400000)
    local of_day = for_seats(b, b.included_per_day)
    -- A clock that was ahead by more than a little wrote a day that is none.
    if of_day == 0 or day == known.day or day + 1 == known.day then return known end
    local paid = add(add(add(included(b), known.covered), b.purchased_used), b.charged)
    local debt = subtract(net(b), paid)
    -- Days without usage pay, too.
    local idle = known.day == 0 and 0 or math.min(31, math.max(0, day - known.day - 1))
    local of_idle = math.min(debt, MAX_AMOUNT, of_day * idle)
    local of_today = math.min(subtract(debt, of_idle), of_day)
    return { each = known.each, covered = add(add(known.covered, of_idle), of_today), day = day,
      today = of_today }
  end

  -- Notes a month's terms, as far as they are of days, and a day that has begun if it pays what
  -- days before owe: it pays that once.
  function self.note_terms(b)
    local known, begun = self.of(b.period), self.state(b)
    local state = begun.covered > known.covered and begun or known
    self.note(b.period, { each = b.included_per_day, covered = state.covered, day = state.day,
      today = state.today })
  end

  -- What is left of the day's credits.
  function self.left(b, state) return subtract(for_seats(b, b.included_per_day), state.today) end

  -- Included credits of the month, of its days as far as they were used, and of today.
  function self.included_so_far(b)
    local state = self.state(b)
    return add(add(included(b), state.covered), self.left(b, state))
  end

  -- Included credits that are left, of the month and of the day.
  function self.all_left(b)
    local state = self.state(b)
    return add(included_left(b, state.covered), self.left(b, state))
  end

  return self
end

-- The part of the month's cost that is charged as pay-as-you-go: charged so when it was debited, as
-- far as included credits do not cover it since.
local function pay_as_you_go(b)
  local included_used = add(included(b), DAYS and DAYS.of(b.period).covered or 0)
  return math.min(b.charged, subtract(subtract(net(b), b.purchased_used), included_used))
end

local function max_pay_as_you_go(b)
  return math.min(b.max_pay_as_you_go, spending_limit or MAX_AMOUNT)
end

-- Grants that expire first come first.
local function sort_grants()
  table.sort(grants, function(x, y)
    if x.expires ~= y.expires then return x.expires < y.expires end
    return x.field < y.field
  end)
end

local function grant_text(grant)
  local expires = grant.expires == math.huge and NEVER or text(grant.expires)
  return table.concat({ text(grant.amount), text(grant.left), expires }, ' ')
end

-- Notes how much of the grants a period used, and forgets the oldest period if there are too many.
local function note_purchased_used(period, amount)
  purchased_used_by[period] = amount
  change_record(PURCHASED_USED .. period, text(amount))
  local count, first = 0, nil
  for month in pairs(purchased_used_by) do
    count = count + 1
    if not first or month < first then first = month end
  end
  if count > MAX_PURCHASED_USED_PERIODS then
    purchased_used_by[first] = nil
    delete_from_record(PURCHASED_USED .. first)
  end
end

-- Uses up to `amount` of the grants valid at a moment. Answers how much they had.
local function use_grants(b, amount, valid_at)
  if amount == 0 then return 0 end
  local rest = amount
  sort_grants()
  for _, grant in ipairs(grants) do
    if grant.expires > valid_at and grant.left > 0 and rest > 0 then
      local taken = math.min(rest, grant.left)
      grant.left, rest = grant.left - taken, rest - taken
      change_record(grant.field, grant_text(grant))
    end
  end
  local taken = amount - rest
  if taken > 0 then
    note_purchased_used(b.period, add(purchased_used_by[b.period] or 0, taken))
  end
  return taken
end

-- Makes the grants and the book agree on what was used of them: the larger of the two is right.
-- Answers if the book changed.
local function match_purchased_used(b, valid_at)
  local before, noted = b.purchased_used, purchased_used_by[b.period] or 0
  b.purchased_used = math.max(before, noted)
  use_grants(b, subtract(b.purchased_used, noted), valid_at)
  return b.purchased_used ~= before
end

-- Debits `cost`: of the day's credits first, then of the month's, then of grants valid at a moment,
-- then as pay-as-you-go as far as that goes.
local function debit(b, cost, grants_valid_at)
  local day, of_day = DAYS and DAYS.state(b), 0
  if day then of_day = math.min(cost, DAYS.left(b, day)) end
  local rest = subtract(subtract(cost, of_day), included_left(b, day and day.covered or 0))
  local purchased = math.min(rest, purchased_available(b, grants_valid_at))
  local chargeable = subtract(max_pay_as_you_go(b), pay_as_you_go(b))
  b.purchased_used = add(b.purchased_used, use_grants(b, purchased, grants_valid_at))
  b.charged = add(b.charged, math.min(rest - purchased, chargeable))
  b.used = add(b.used, cost)
  if day and cost > 0 then
    DAYS.note(b.period, { each = b.included_per_day, covered = add(day.covered, of_day),
      day = day.day, today = add(day.today, of_day) })
  end
end

-- Accounted for by the leases and missing in the book: a write was torn. The terms of a book that
-- was lost are not known before a request states them, or someone reads the statement.
local function missing_in(b, settled_by_leases)
  if is_empty(b) then return 0 end
  return math.min(subtract(settled_by_leases, b.settled), MAX_AMOUNT - b.used)
end

-- Debits what was missing. Answers if the book changed.
local function repair(b, missing)
  local changed = match_purchased_used(b, now) or missing > 0
  b.settled = add(b.settled, missing)
  debit(b, missing, now)
  b.recovered = add(b.recovered, missing)
  return changed
end

-- The line of this name, which is made if there is none.
local function line_of(b, name)
  if not b.lines[name] then b.lines[name], b.line_count = { 0, 0, 0 }, b.line_count + 1 end
  b.changed_lines[name] = true
  return b.lines[name]
end

-- Writes the totals, the terms and lines that changed, and further fields and values.
local function write_book(b, ends, terms_changed, fields)
  local count = #fields
  fields[count + 1] = TOTAL
  fields[count + 2] = string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f', b.used,
    b.purchased_used, b.charged, b.recovered, b.refunded, b.settled, b.forgotten, b.line_count)
  if terms_changed then
    local max = b.max_pay_as_you_go
    fields[count + 3] = TERMS
    fields[count + 4] = string.format('%.0f %.0f %s %.0f %.0f', b.included_each, b.per_seat,
      max == MAX_AMOUNT and UNLIMITED or text(max), b.seats, b.stated_at)
  end
  for name in pairs(b.changed_lines) do
    fields[#fields + 1] = name
    fields[#fields + 1] = string.format('%.0f %.0f %.0f', unpack(b.lines[name]))
  end
  redis.call('HSET', b.key, unpack(fields))
  if b.is_new then redis.call('PEXPIREAT', b.key, text(ends + BOOK_LIFETIME)) end
end
