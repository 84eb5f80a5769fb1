local MAX_AMOUNT = 9007199254740991
local MAX_SEATS = 4294967295
local SEATS_FORM = 'a whole number from 1 to 4294967295'
local MAX_PURCHASED_USED_PERIODS = 14
local MAX_HOLD_LIFETIME = 86400000
local ERASED_FOR = 8035200000
local BOOK_LIFETIME = 34214400000
local SEATS = 'seats'
local LIMIT = 'limit'
local CLOSED = 'closed'
local ERASED = 'erased'
local GRANT = 'grant:'
local RESERVED = 'pledge:'
local PURCHASED_USED = 'drawn:'
local NEVER = 'never'
local TOTAL = 'total'
local TERMS = 'terms'
local UNLIMITED = '*'
local UNLIMITED_PATTERN = '%*'
local MOVED_TO = 'to'
local MOVED_FROM = 'from'
local SUM = 'sum'
local MALFORMED = 'MALFORMED'
local REFUSED = 'REFUSED'
local MAX_REFUNDS = 2000
local REFUND = 'refund:'
local CLAIM = 'claim:'
--CLOCK--
-- The beginning of every script that changes an account: reads and checks the account's keys, and
-- has the functions that change its totals. The constants in capital letters come from Rust; see
-- `script.rs`. docs/redis-schema.md describes the keys.
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

local PATTERNS = { '^(%d+)$' }
for count = 2, 8 do PATTERNS[count] = '^' .. string.rep('(%d+) ', count - 1) .. '(%d+)$' end

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
local grants, reserved, purchased_used_by = {}, {}, {}
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
  elseif field == ERASED then
    local at = numbers(key, field, value, 1, 'milliseconds since 1970')[1]
    erased = now < at + ERASED_FOR
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

local TOTAL_FORM = '"used purchased_used charged recovered refunded settled forgotten lines", '
  .. 'in nano-dollars and a count'
local TERMS_FORM = '"included per_seat pay_as_you_go seats stated_at"'
local LINE_FORM = '"requests micros cost"'
local LEASE_SUM_FORM = '"settled forgotten behind_until moved"'
local MOVED_FORM = '"month amount"'

-- Makes a book of what HMGET found under TOTAL, TERMS and the names of some lines.
local function open_book(key, found, names)
  local terms = found[2]
  local b = {
    key = key,
    period = string.sub(key, -7),
    is_new = not found[1],
    has_terms = terms and true or false,
    lines = {},
    changed_lines = {},
  }
  b.used, b.purchased_used, b.charged, b.recovered, b.refunded, b.settled, b.forgotten,
    b.line_count = unpack(numbers(key, TOTAL, found[1], 8, TOTAL_FORM))
  terms = terms and string.gsub(terms, UNLIMITED_PATTERN, text(MAX_AMOUNT), 1)
  b.included_each, b.per_seat, b.max_pay_as_you_go, b.seats, b.stated_at =
    unpack(numbers(key, TERMS, terms, 5, TERMS_FORM))
  for i, name in ipairs(names) do
    local value = found[i + 2]
    if value then b.lines[name] = numbers(key, name, value, 3, LINE_FORM) end
  end
  return b
end

-- Amounts that were moved between months, by the other month.
local function read_moved(key, field, value)
  local moved = {}
  if value and string.gsub(value, '%d%d%d%d%-%d%d %d+ ?', '') ~= '' then
    note_malformed(key, field, value, MOVED_FORM)
  end
  for month, amount in string.gmatch(value or '', '(%S+) (%d+)') do
    moved[month] = numbers(key, field, amount, 1, MOVED_FORM)[1]
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

local function included(b)
  return math.min(MAX_AMOUNT, b.included_each * (b.per_seat == 1 and b.seats or 1))
end

-- The month's cost: what was used, less refunds.
local function net(b) return subtract(b.used, b.refunded) end

-- Included credits that are left, and purchased ones whose usage was refunded since.
local function included_left(b) return subtract(add(included(b), b.purchased_used), net(b)) end

-- The part of the month's cost that is charged as pay-as-you-go: charged so when it was debited, as
-- far as included credits do not cover it since.
local function pay_as_you_go(b)
  return math.min(b.charged, subtract(subtract(net(b), b.purchased_used), included(b)))
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

-- Debits `cost`: of included credits first, then of grants valid at a moment, then as pay-as-you-go
-- as far as that goes.
local function debit(b, cost, grants_valid_at)
  local rest = subtract(cost, included_left(b))
  local purchased = math.min(rest, purchased_available(b, grants_valid_at))
  local chargeable = subtract(max_pay_as_you_go(b), pay_as_you_go(b))
  b.purchased_used = add(b.purchased_used, use_grants(b, purchased, grants_valid_at))
  b.charged = add(b.charged, math.min(rest - purchased, chargeable))
  b.used = add(b.used, cost)
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
-- Changes an account, corrects or closes one of its months, or erases it. The same functions as
-- `AccountState::amend` and `AccountState::claim` in Rust, step for step: change both or neither.
-- `account.lua` comes before this.
--
-- ARGV[1]  the action, and its keys and arguments:
--   grant  id "amount left expires"
--   set    field value              of the record
--   unset  field
--   refund ends id amount reason    KEYS[3] the period's book, KEYS[4] its leases
--   close  period ends              KEYS[3] the period's book, KEYS[4] its leases
--   claim  threshold by ends        KEYS[3] the period's claims
--   erase                           KEYS[3..] all keys that are to go
--
-- Answers 1, or 0 for what was done before, or what another lease claimed.

local action = ARGV[1]

read_record()

if action == 'erase' then
  if erased then return 0 end
  redis.call('DEL', unpack(KEYS))
  redis.call('HSET', KEYS[1], ERASED, text(now))
  redis.call('PEXPIREAT', KEYS[1], text(now + ERASED_FOR))
  return 1
end
if erased then return refused('the account was erased: it can be used again 93 days after that') end

-- These can mend a field that is malformed.
if action == 'set' then
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
  return 1
elseif action == 'unset' then
  redis.call('HDEL', KEYS[1], ARGV[2])
  return 1
end
if wrong then return malformed() end

local function grant(id, value)
  local field = GRANT .. id
  if read('HEXISTS', KEYS[2], field) == 1 then return 0 end
  if wrong then return malformed() end
  return redis.call('HSETNX', KEYS[1], field, value)
end

local function settled_by_leases()
  local sums = read('HMGET', KEYS[4], SUM)[1]
  return numbers(KEYS[4], SUM, sums, 4, LEASE_SUM_FORM)[1]
end

local function close(period, ends)
  if now < ends then return refused(period .. ' has not ended: close it once it has') end
  if period <= closed then return 0 end
  local found, settled = read('HMGET', KEYS[3], TOTAL, TERMS), settled_by_leases()
  local book = open_book(KEYS[3], found, {})
  if wrong then return malformed() end
  local repaired = not is_empty(book) and repair(book, missing_in(book, settled))
  -- The month is closed last, so that a close that is torn can be made again.
  write_record()
  if repaired then write_book(book, ends, false, {}) end
  redis.call('HSET', KEYS[1], CLOSED, period)
  return 1
end

local function claim(threshold, by, ends)
  local field = CLAIM .. threshold
  local holder = read('HMGET', KEYS[3], field)[1]
  if wrong then return malformed() end
  if holder then return holder == by and 1 or 0 end
  redis.call('HSET', KEYS[3], field, by)
  redis.call('PEXPIREAT', KEYS[3], text(ends + BOOK_LIFETIME))
  return 1
end

-- The spent grants. One that is in use as well was being moved when something was lost.
local function read_spent_grants()
  local fields = read('HGETALL', KEYS[2])
  local in_use, spent = {}, {}
  for _, grant in ipairs(grants) do in_use[grant.field] = true end
  for i = 1, #fields, 2 do
    local grant = read_grant(KEYS[2], fields[i], fields[i + 1])
    if grant and not in_use[grant.field] then
      grant.is_spent = true
      spent[#spent + 1] = grant
    end
  end
  return spent
end

-- Gives up to `amount` back to valid grants, the last to expire first. Answers how much they took,
-- and the fields of the spent grants among them.
local function give_back(amount)
  local rest, revived = amount, {}
  sort_grants()
  for i = #grants, 1, -1 do
    local grant = grants[i]
    local given = grant.expires > now and math.min(rest, subtract(grant.amount, grant.left)) or 0
    if given > 0 then
      grant.left, rest = add(grant.left, given), rest - given
      change_record(grant.field, grant_text(grant))
      if grant.is_spent then revived[#revived + 1] = grant.field end
    end
  end
  return amount - rest, revived
end

local function refund(ends, id, amount, reason)
  local field = REFUND .. id
  local found = read('HMGET', KEYS[3], TOTAL, TERMS, field, MOVED_TO, MOVED_FROM)
  local settled, count = settled_by_leases(), read('HLEN', KEYS[3])
  if wrong then return malformed() end
  if found[3] then return 0 end
  local book, spent = open_book(KEYS[3], found, {}), read_spent_grants()
  if wrong then return malformed() end
  local period = book.period
  if period <= closed and now >= ends then
    return refused(period .. ' is closed: refund in a later month, or grant credits')
  end
  if amount == 0 then return refused('a refund of nothing: refund some amount') end
  local missing = missing_in(book, settled)
  local cost = add(net(book), missing)
  if amount > cost then
    return refused(string.format(
      'a refund of %.0f nano-dollars is more than %s costs: refund at most %.0f, or grant credits',
      amount, period, cost))
  end
  local refunds = count - book.line_count
  for _, other in ipairs({ 1, 2, 4, 5 }) do refunds = refunds - (found[other] and 1 or 0) end
  if refunds >= MAX_REFUNDS then
    return refused(string.format('%s has %d refunds already: grant credits', period, MAX_REFUNDS))
  end

  -- What was missing is not taken from spent grants.
  repair(book, missing)
  for _, grant in ipairs(spent) do grants[#grants + 1] = grant end
  local given, revived =
    give_back(math.min(subtract(amount, pay_as_you_go(book)), book.purchased_used))
  book.charged, book.refunded = subtract(book.charged, amount), add(book.refunded, amount)
  if given > 0 then
    book.purchased_used = subtract(book.purchased_used, given)
    note_purchased_used(period, subtract(purchased_used_by[period] or 0, given))
  end
  -- The record first: if the write is torn after it, the next renewal uses again what was given
  -- back, and the refund can be sent again.
  write_record()
  in_chunks('HDEL', KEYS[2], revived)
  write_book(book, ends, false, { field, text(amount) .. ' ' .. reason })
  return 1
end

if action == 'grant' then return grant(ARGV[2], ARGV[3]) end
if action == 'close' then return close(ARGV[2], tonumber(ARGV[3])) end
if action == 'claim' then return claim(ARGV[2], ARGV[3], tonumber(ARGV[4])) end
return refund(tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5])
