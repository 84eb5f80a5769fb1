-- Reads and checks the keys of an account, and has the functions that change its totals. In every
-- script that changes an account, after `numbers.lua`. docs/redis-schema.md describes the keys.
--
-- Everything is read and checked before the first write: an error in the middle of a script would
-- leave what was written before it. Values of more than 64 bytes would take twice the memory.
--
-- Each call makes the functions anew: those that few accounts need, only when they are needed.
--
-- KEYS[1]  the account's record
-- KEYS[2]  its spent grants

-- The account's record.
local seats, spending_limit, closed, erased = 1, nil, '', nil
-- The most that the account may use on a day, what it used on the last one, and which that was.
local per_day, last_day, used_on_last_day = nil, 0, 0
local grants, reserved, purchased_used_by, rates = {}, {}, {}, {}
-- What few accounts have: the credits that are included each day, by month, and the shares that
-- leases have of the requests that may run at the same time.
local day_credits, shares
-- The functions of credits of days and of purchased ones, as `days` and `purchased` make them; nil
-- for an account that has none.
local days, DAYS, purchased, PURCHASED
-- Its changes: fields and values to write, and fields to delete.
local record_changes, record_deletions = {}, {}

local function change_record(field, value)
  local count = #record_changes
  record_changes[count + 1], record_changes[count + 2] = field, value
end

local function delete_from_record(field) record_deletions[#record_deletions + 1] = field end

local function has_prefix(field, prefix) return sub(field, 1, #prefix) == prefix end

local function read_grant(key, field, value)
  local amount, left, expires = match(value, '^(%d+) (%d+) (%w+)$')
  amount, left = tonumber(amount), tonumber(left)
  if expires == NEVER then
    expires = math.huge
  else
    expires = tonumber(expires)
    -- As far as numbers are written.
    if expires then expires = min(expires, MAX_AMOUNT) end
  end
  if not (amount and left and expires) or amount > MAX_AMOUNT or left > MAX_AMOUNT then
    note_malformed(key, field, value,
      '"amount left expires", with `' .. NEVER .. '` if it does not expire')
    return
  end
  return { field = field, amount = amount, left = left, expires = expires }
end

-- Reads the fields and values of the record.
local function read_record_fields(key, record)
  for i = 1, #record, 2 do
    local field, value = record[i], record[i + 1]
    if field == SEATS then
      seats = numbers(key, field, value, NUMBERS_1, SEATS_FORM)
      if seats == 0 or seats > MAX_SEATS then note_malformed(key, field, value, SEATS_FORM) end
    elseif field == LIMIT then
      spending_limit = numbers(key, field, value, NUMBERS_1, 'nano-dollars')
    elseif field == CLOSED then
      closed = value
      if not match(value, '^%d%d%d%d%-%d%d$') then
        note_malformed(key, field, value, 'a month like 2026-11')
      end
    elseif field == PER_DAY then
      per_day = numbers(key, field, value, NUMBERS_1, 'nano-dollars')
    elseif field == TODAY then
      last_day, used_on_last_day = numbers(key, field, value, NUMBERS_2, '"day used"')
    elseif field == ERASED then
      erased = now
        < numbers(key, field, value, NUMBERS_1, 'milliseconds since 1970') + ERASED_FOR
    elseif has_prefix(field, RATE) then
      local at, used = numbers(key, field, value, NUMBERS_2, '"at used"')
      rates[sub(field, #RATE + 1)] = { at = at, used = used }
    elseif has_prefix(field, DAY_CREDITS) then
      local each, covered, day, today =
        numbers(key, field, value, NUMBERS_4, '"each covered day today"')
      day_credits = day_credits or {}
      day_credits[sub(field, #DAY_CREDITS + 1)] =
        { each = each, covered = covered, day = day, today = today }
    elseif has_prefix(field, SHARE) then
      local count, expires = numbers(key, field, value, NUMBERS_2, '"count expires"')
      shares = shares or {}
      shares[sub(field, #SHARE + 1)] = { count = count, expires = expires }
    elseif has_prefix(field, GRANT) then
      grants[#grants + 1] = read_grant(key, field, value)
    elseif has_prefix(field, RESERVED) then
      local amount, until_then = numbers(key, field, value, NUMBERS_2, '"amount until"')
      reserved[sub(field, #RESERVED + 1)] = { amount = amount, ends = until_then }
    elseif has_prefix(field, PURCHASED_USED) then
      purchased_used_by[sub(field, #PURCHASED_USED + 1)] =
        numbers(key, field, value, NUMBERS_1, 'nano-dollars')
    end
  end
  if day_credits then DAYS = days() end
  if #grants > 0 or next(reserved) or next(purchased_used_by) then PURCHASED = purchased() end
end

-- Reads the record, of which the content may have been found before.
local function read_record(found)
  local record = found and checked(KEYS[1], found) or read('HGETALL', KEYS[1])
  if #record > 0 then read_record_fields(KEYS[1], record) end
end

local function in_chunks(command, key, arguments)
  for from = 1, #arguments, CHUNK do
    redis.call(command, key, unpack(arguments, from, min(#arguments, from + CHUNK - 1)))
  end
end

local function write_record()
  in_chunks('HDEL', KEYS[1], record_deletions)
  in_chunks('HSET', KEYS[1], record_changes)
end

-- Makes a book of what HMGET found under TOTAL, TERMS and the names of some lines. Its month ends
-- at `ends`.
local function open_book(key, found, names, ends)
  local total, terms = found[1], found[2]
  local used, purchased_used, charged, recovered, refunded, settled, forgotten, line_count =
    numbers(key, TOTAL, total, NUMBERS_8, FORM_TOTAL)
  local included_each, per_seat, max_pay_as_you_go, of_seats, stated_at
  if terms and string.find(terms, UNLIMITED, 1, true) then
    included_each, per_seat, of_seats, stated_at =
      numbers(key, TERMS, terms, TERMS_UNLIMITED, FORM_TERMS)
    max_pay_as_you_go = MAX_AMOUNT
  else
    included_each, per_seat, max_pay_as_you_go, of_seats, stated_at =
      numbers(key, TERMS, terms, NUMBERS_5, FORM_TERMS)
  end
  local lines = {}
  for i = 1, #names do
    local value = found[i + 2]
    if value then
      local requests, micros, cost = numbers(key, names[i], value, NUMBERS_3, FORM_LINE)
      lines[names[i]] = { requests, micros, cost }
    end
  end
  if purchased_used > 0 then PURCHASED = PURCHASED or purchased() end
  local period = sub(key, -7)
  return {
    key = key,
    ends = ends,
    period = period,
    is_new = not total,
    has_terms = terms and true or false,
    lines = lines,
    changed_lines = {},
    used = used,
    purchased_used = purchased_used,
    charged = charged,
    recovered = recovered,
    refunded = refunded,
    settled = settled,
    forgotten = forgotten,
    line_count = line_count,
    included_each = included_each,
    per_seat = per_seat,
    max_pay_as_you_go = max_pay_as_you_go,
    seats = of_seats,
    stated_at = stated_at,
    included_per_day = DAYS and terms and DAYS.of(period).each or 0,
  }
end

-- True if nothing was ever settled or put on hold; also if the book was lost.
local function is_empty(b) return b.used == 0 and b.settled == 0 and not b.has_terms end

local function for_seats(b, credits)
  if b.per_seat ~= 1 then return credits end
  return min(MAX_AMOUNT, credits * b.seats)
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
    change_record(DAY_CREDITS .. month, format('%d %d %d %d', state.each,
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
    local day = floor(min(now, b.ends - 1) / 86400000)
    local of_day = for_seats(b, b.included_per_day)
    -- A clock that was ahead by more than a little wrote a day that is none.
    if of_day == 0 or day == known.day or day + 1 == known.day then return known end
    local paid = add(add(add(included(b), known.covered), b.purchased_used), b.charged)
    local debt = subtract(net(b), paid)
    -- Days without usage pay, too.
    local idle = known.day == 0 and 0 or min(31, max(0, day - known.day - 1))
    local of_idle = min(debt, MAX_AMOUNT, of_day * idle)
    local of_today = min(subtract(debt, of_idle), of_day)
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
  return min(b.charged, subtract(subtract(net(b), b.purchased_used), included_used))
end

local function max_pay_as_you_go(b)
  return min(b.max_pay_as_you_go, spending_limit or MAX_AMOUNT)
end

-- The functions of purchased credits.
function purchased()
  local self = {}

  -- Purchased credits that are left of grants valid at a moment, without those that holds of other
  -- periods than the book's may use.
  function self.available(b, valid_at)
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

  -- Grants that expire first come first.
  function self.sort()
    table.sort(grants, function(x, y)
      if x.expires ~= y.expires then return x.expires < y.expires end
      return x.field < y.field
    end)
  end

  function self.grant_text(grant)
    local expires = grant.expires == math.huge and NEVER or text(grant.expires)
    return table.concat({ text(grant.amount), text(grant.left), expires }, ' ')
  end

  -- Notes how much of the grants a period used, and forgets the oldest period if there are too
  -- many.
  function self.note_used(period, amount)
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
  function self.use(b, amount, valid_at)
    if amount == 0 then return 0 end
    local rest = amount
    self.sort()
    for _, grant in ipairs(grants) do
      if grant.expires > valid_at and grant.left > 0 and rest > 0 then
        local taken = min(rest, grant.left)
        grant.left, rest = grant.left - taken, rest - taken
        change_record(grant.field, self.grant_text(grant))
      end
    end
    local taken = amount - rest
    if taken > 0 then
      self.note_used(b.period, add(purchased_used_by[b.period] or 0, taken))
    end
    return taken
  end

  -- Makes the grants and the book agree on what was used of them: the larger of the two is right.
  -- Answers if the book changed.
  function self.match(b, valid_at)
    local before, noted = b.purchased_used, purchased_used_by[b.period] or 0
    b.purchased_used = max(before, noted)
    self.use(b, subtract(b.purchased_used, noted), valid_at)
    return b.purchased_used ~= before
  end

  return self
end

-- Debits `cost`: of the day's credits first, then of the month's, then of grants valid at a moment,
-- then as pay-as-you-go as far as that goes.
local function debit(b, cost, grants_valid_at)
  if cost == 0 then return end
  local day, of_day = DAYS and DAYS.state(b), 0
  if day then of_day = min(cost, DAYS.left(b, day)) end
  local rest = subtract(subtract(cost, of_day), included_left(b, day and day.covered or 0))
  if rest > 0 then
    local chargeable = subtract(max_pay_as_you_go(b), pay_as_you_go(b))
    local paid = PURCHASED and min(rest, PURCHASED.available(b, grants_valid_at)) or 0
    if paid > 0 then
      b.purchased_used = add(b.purchased_used, PURCHASED.use(b, paid, grants_valid_at))
    end
    b.charged = add(b.charged, min(rest - paid, chargeable))
  end
  b.used = add(b.used, cost)
  if day then
    DAYS.note(b.period, { each = b.included_per_day, covered = add(day.covered, of_day),
      day = day.day, today = add(day.today, of_day) })
  end
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
  fields[count + 2] = format('%d %d %d %d %d %d %d %d', b.used,
    b.purchased_used, b.charged, b.recovered, b.refunded, b.settled, b.forgotten, b.line_count)
  if terms_changed then
    local max = b.max_pay_as_you_go
    fields[count + 3] = TERMS
    fields[count + 4] = format('%d %d %s %d %d', b.included_each, b.per_seat,
      max == MAX_AMOUNT and UNLIMITED or text(max), b.seats, b.stated_at)
  end
  for name in pairs(b.changed_lines) do
    fields[#fields + 1] = name
    fields[#fields + 1] = format('%d %d %d', unpack(b.lines[name]))
  end
  in_chunks('HSET', b.key, fields)
  if b.is_new then redis.call('PEXPIREAT', b.key, text(ends + BOOK_LIFETIME)) end
end
