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
local FIRST_LINE = 22
local SURPLUS_DIVISOR = 4
local NOTE_SAME_TERMS_EVERY = 10
local CLOCK_SKEW = 60000
local SETTLEMENT_WINDOW = 5356800000
local REPORT_AGAIN_WITHIN = 3600000
local LATE_LINE = 'late'
local OTHER_LINE = 'other'
local RENEWED = 'renewed'
local SUPERSEDED = 'superseded'
local FORGOTTEN = 'forgotten'
local LATE_RENEWAL = 'late'
local NOT_BEGUN = 'not-begun'
local PERIOD_CLOSED = 'closed'
local ACCOUNT_ERASED = 'erased'
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
-- Renews a lease. The same function as `Book::renew` in `../book/renewal.rs`, step for step: change
-- both or neither. `account.lua` comes before this.
--
-- KEYS[3]  the period's book
-- KEYS[4]  the period's leases
-- KEYS[5]  the period's holds; the key is gone if nothing is on hold
-- KEYS[6]  the book of the month that it is by the ledger's clock, if that is another one
-- ARGV     lease seq batch settled reported keep refill need extra included per_seat pay_as_you_go
--          stated_at ttl forget not_after begins ends current_begins current_ends max_lines, then
--          four for each line: name requests micros cost
--
-- Answers "outcome now", and of a renewal that took effect also "hold used held limit included
-- limited_by_owner early ended".

local lease = ARGV[1]
local a = {}
for i = 2, FIRST_LINE - 1 do a[i] = tonumber(ARGV[i]) end
local seq, batch, settled, reported = a[2], a[3], a[4], a[5]
local keep, refill, need, extra = a[6], a[7], a[8], a[9]
local terms_included, terms_per_seat, terms_max = a[10], a[11], a[12]
local now_seconds = math.floor(now / 1000)
-- A node whose clock is ahead must not pin its terms.
local stated_at = math.min(a[13], now_seconds)
local ttl, forget, not_after, begins, ends = a[14], a[15] == 1, a[16], a[17], a[18]
local current_begins, current_ends, max_lines = a[19], a[20], a[21]

local function without_effect(outcome) return outcome .. ' ' .. text(now) end

if now > not_after then return without_effect(LATE_RENEWAL) end
if now > ends + SETTLEMENT_WINDOW then return without_effect(PERIOD_CLOSED) end

-- Everything is read, and checked.
read_record()
local names = {}
for i = FIRST_LINE, #ARGV, 4 do names[#names + 1] = ARGV[i] end
if #names > 0 then names[#names + 1] = OTHER_LINE end
local found_lease = read('HMGET', KEYS[4], lease, SUM)
local found_hold = read('HMGET', KEYS[5], lease, SUM)
local found_book = read('HMGET', KEYS[3], TOTAL, TERMS, unpack(names))
local found_to = KEYS[6] and read('HMGET', KEYS[3], MOVED_TO)
local found_current = KEYS[6] and read('HMGET', KEYS[6], TOTAL, TERMS, LATE_LINE, MOVED_FROM)
if wrong then return malformed() end

local known = found_lease[1] and true or false
local entry_seq, entry_batch, entry_settled =
  unpack(numbers(KEYS[4], lease, found_lease[1], 3, '"seq batch settled"'))
local lease_settled, lease_forgotten, behind_until, lease_moved =
  unpack(numbers(KEYS[4], SUM, found_lease[2], 4, LEASE_SUM_FORM))
local own_hold = numbers(KEYS[5], lease, found_hold[1], 2, '"amount expires"')[1]
local held, next_expiry = unpack(numbers(KEYS[5], SUM, found_hold[2], 2, '"held next"'))
local current = found_current and open_book(KEYS[6], found_current, { LATE_LINE })
local book = open_book(KEYS[3], found_book, names)
local moved_to = KEYS[6] and read_moved(KEYS[3], MOVED_TO, found_to[1])
local moved_from = KEYS[6] and read_moved(KEYS[6], MOVED_FROM, found_current[4])

-- Holds are scanned only when one may have expired.
local scanned = (next_expiry > 0 and not is_live(next_expiry)) or (next_expiry == 0 and held > 0)
local expired, hold_count = {}, 0
if scanned then
  local all = read('HGETALL', KEYS[5])
  held, next_expiry = 0, 0
  for i = 1, #all, 2 do
    if all[i] ~= SUM then
      local found = numbers(KEYS[5], all[i], all[i + 1], 2, '"amount expires"')
      local amount, expires = found[1], found[2]
      if is_live(expires) then
        held, hold_count = add(held, amount), hold_count + 1
        if next_expiry == 0 or expires < next_expiry then next_expiry = expires end
      else
        expired[#expired + 1] = all[i]
        if all[i] == lease then own_hold = 0 end
      end
    end
  end
end
-- Usage that was admitted on a grant before it expired may still be debited from it.
local grants_valid_at = subtract(now, ttl)
local spent = {}
for _, grant in ipairs(grants) do
  if grant.left == 0 or grant.expires <= grants_valid_at then spent[#spent + 1] = grant end
end
if #spent > 0 then read('HLEN', KEYS[2]) end
if wrong then return malformed() end

if erased then return without_effect(ACCOUNT_ERASED) end
local is_closed, early = book.period <= closed and now >= ends, now + CLOCK_SKEW < begins
-- Usage of a month that is closed, or has not begun, is debited in the current one.
local elsewhere = KEYS[6] and (is_closed or early) and now + CLOCK_SKEW >= current_begins
  and now <= current_ends + SETTLEMENT_WINDOW and (current.period > closed or now < current_ends)
if early and (not elsewhere or (not known and settled == 0)) then
  return without_effect(NOT_BEGUN)
end
if is_closed and not elsewhere then return without_effect(LATE_RENEWAL) end

-- Brings the sums of the book and of the leases together. If the leases are behind, they stay
-- behind by what their lost entries had settled, for as long as that may be reported again.
local settled_before, forgotten_before = book.settled, book.forgotten
local was_empty = is_empty(book)
if not found_lease[2] then
  lease_settled, lease_forgotten = math.min(book.forgotten, book.settled), book.forgotten
end
local missing = subtract(lease_settled, book.settled)
book.settled = add(book.settled, missing)
lease_forgotten = math.max(lease_forgotten, book.forgotten)
local behind = subtract(book.settled, lease_settled)
if behind_until == 0 then behind_until = now + REPORT_AGAIN_WITHIN end
if behind == 0 or not is_live(behind_until) then
  lease_settled, lease_forgotten = book.settled, add(lease_forgotten, behind)
  behind_until = 0
end
book.forgotten = lease_forgotten

-- Settled here and debited in the other month: as this book has it, and as that one does. Part of
-- what the leases account for is in another month already. If this book was lost, that is not
-- missing here.
local moved_here, moved_there = 0, 0
if elsewhere then
  moved_here, moved_there = moved_to[current.period] or 0, moved_from[book.period] or 0
end
missing = subtract(missing, was_empty and lease_moved or subtract(moved_there, moved_here))
local restored = 0
if is_closed and was_empty then restored, missing = missing, 0 end
local repaired = add(missing, subtract(moved_here, moved_there))

local unknown_farewell = forget and not known
local is_news = not unknown_farewell and seq > entry_seq
local delta, lines_cost, brings_lines = 0, 0, false
if is_news then
  delta = subtract(settled, entry_settled)
  if batch > entry_batch then
    brings_lines = #names > 0
    for i = FIRST_LINE, #ARGV, 4 do lines_cost = add(lines_cost, tonumber(ARGV[i + 3])) end
  end
  if lines_cost > delta then
    return refused(string.format('the lines of batch %.0f cost %.0f nano-dollars, and only %.0f '
      .. 'are newly settled: send lines that cost no more', batch, lines_cost, delta))
  end
end

-- What leases report again because their entries were lost is in the book already.
local reported_again = math.min(subtract(book.settled, lease_settled),
  subtract(math.min(reported, settled), entry_settled), delta)
local cost = delta - reported_again
local debited = math.min(add(cost, repaired), MAX_AMOUNT - (elsewhere and current or book).used)
if lines_cost > subtract(debited, repaired) then lines_cost, brings_lines = 0, false end

-- Of a month that has ended its own terms count, else the newest that were stated. Terms that are
-- as before are noted at intervals.
local terms_changed = false
if now < ends or not book.has_terms then
  -- Terms that were stated while the ledger's clock was ahead count no more.
  local before = book.stated_at <= now_seconds and book.stated_at or 0
  local same = terms_included == book.included_each and terms_per_seat == book.per_seat
    and terms_max == book.max_pay_as_you_go
  if not book.has_terms or (stated_at >= before
    and (not same or stated_at >= before + NOTE_SAME_TERMS_EVERY)) then
    book.included_each, book.per_seat, book.max_pay_as_you_go, book.stated_at =
      terms_included, terms_per_seat, terms_max, stated_at
    terms_changed = true
  end
  if book.seats ~= seats then book.seats, terms_changed = seats, true end
end

local book_changed = is_news or missing > 0 or book.settled ~= settled_before
  or book.forgotten ~= forgotten_before
if not elsewhere or restored > 0 then
  book_changed = match_purchased_used(book, grants_valid_at) or book_changed or restored > 0
  if brings_lines and not elsewhere then
    for i = FIRST_LINE, #ARGV, 4 do
      local name = ARGV[i]
      if not book.lines[name] and book.line_count >= max_lines then name = OTHER_LINE end
      local line = line_of(book, name)
      for part = 1, 3 do line[part] = add(line[part], tonumber(ARGV[i + part])) end
    end
  end
  debit(book, elsewhere and restored or debited, grants_valid_at)
  book.recovered =
    add(book.recovered, elsewhere and restored or subtract(debited, lines_cost))
end

-- The most that can be used. Usage of a closed month, or of one that has not begun, is debited in
-- another. No total grows beyond the largest amount.
local function limit()
  if is_closed or early or book.used == MAX_AMOUNT then return net(book) end
  local prepaid = add(add(included(book), book.purchased_used), purchased_available(book, now))
  return add(prepaid, max_pay_as_you_go(book))
end

local outcome = RENEWED
if unknown_farewell then
  outcome = FORGOTTEN
elseif seq < entry_seq then
  outcome = SUPERSEDED
end

local hold, leaves, expires = own_hold, false, now + ttl
if is_news then
  lease_settled, book.settled = add(lease_settled, delta), add(book.settled, cost)

  -- The hold: what is kept is kept by right, and scarcity limits only what is more. In another
  -- month than the current one, only running requests get more.
  local others = subtract(held, own_hold)
  local kept = math.min(keep, subtract(own_hold, cost))
  local available = subtract(subtract(subtract(limit(), net(book)), others), kept)
  if now >= ends or early then need, extra = 0, 0 end
  local more = math.min(add(add(keep - kept, refill), need), available)
  hold = kept + more + math.min(extra, math.floor((available - more) / SURPLUS_DIVISOR))
  if hold > 0 then
    held = add(others, hold)
    if next_expiry == 0 or expires < next_expiry then next_expiry = expires end
  elseif own_hold > 0 then
    if not scanned then hold_count = redis.call('HLEN', KEYS[5]) - 1 end
    held, hold_count = others, hold_count - 1
    if hold_count == 0 then held, next_expiry = 0, 0 end
  end

  -- Purchased credits that this period's holds may use are reserved, so that another period does
  -- not hold them too.
  local amount =
    math.min(subtract(held, included_left(book)), purchased_available(book, now))
  for month, reservation in pairs(reserved) do
    local is_own = month == book.period
    if (is_own and amount == 0) or (not is_own and not is_live(reservation.ends)) then
      delete_from_record(RESERVED .. month)
      reserved[month] = nil
    end
  end
  if amount > 0 then
    reserved[book.period] = { amount = amount, ends = expires }
    change_record(RESERVED .. book.period, text(amount) .. ' ' .. text(expires))
  end

  -- An entry that still settles something is not removed.
  leaves = forget and hold == 0 and delta == 0
  if leaves then
    local forgotten = add(lease_forgotten, math.max(settled, entry_settled))
    lease_forgotten = math.min(forgotten, lease_settled)
    book.forgotten, outcome = lease_forgotten, FORGOTTEN
  end
end

local answer = without_effect(outcome)
if outcome == RENEWED then
  answer = string.format('%s %.0f %.0f %.0f %.0f %.0f %.0f %d %d %d', outcome, now, hold,
    net(book), held, limit(), included(book),
    max_pay_as_you_go(book) < book.max_pay_as_you_go and 1 or 0, early and 1 or 0,
    now >= ends and 1 or 0)
end

local debits_elsewhere = elsewhere and (brings_lines or debited > 0)
local book_fields, current_fields, newly_moved = {}, {}, 0
if elsewhere then
  local noted = math.max(moved_here, moved_there)
  local all = add(noted, subtract(debited, subtract(moved_here, moved_there)))
  if all > moved_here then
    moved_to[current.period] = all
    book_fields, book_changed = { MOVED_TO, moved_text(moved_to) }, true
  end
  if all > moved_there then
    moved_from[book.period] = all
    current_fields = { MOVED_FROM, moved_text(moved_from) }
  end
  newly_moved = all - noted
end
local current_is_new = debits_elsewhere and not current.has_terms
if debits_elsewhere then
  if current_is_new then
    current.included_each, current.per_seat = terms_included, terms_per_seat
    current.max_pay_as_you_go, current.seats, current.stated_at = terms_max, seats, stated_at
  end
  local late = line_of(current, LATE_LINE)
  if brings_lines then
    for i = FIRST_LINE, #ARGV, 4 do
      for part = 1, 2 do late[part] = add(late[part], tonumber(ARGV[i + part])) end
    end
  end
  late[3] = add(late[3], debited)
  match_purchased_used(current, grants_valid_at)
  debit(current, debited, grants_valid_at)
end

-- From here on nothing fails. The leases are written before the book, so that a write that is torn
-- between them is seen in their sums.
if is_news then
  for _, grant in ipairs(spent) do
    redis.call('HSET', KEYS[2], grant.field, grant_text(grant))
    delete_from_record(grant.field)
  end
end
write_record()

local function lease_sum_text()
  return string.format('%.0f %.0f %.0f %.0f', lease_settled, lease_forgotten, behind_until,
    lease_moved)
end

-- The sums alone are of no use, unless lost entries may be reported again.
local function delete_lease_sums_if_alone()
  if behind_until == 0 and redis.call('HLEN', KEYS[4]) == 1 then redis.call('DEL', KEYS[4]) end
end

local lease_sums = lease_sum_text()
if leaves then
  redis.call('HSET', KEYS[4], SUM, lease_sums)
  redis.call('HDEL', KEYS[4], lease)
  delete_lease_sums_if_alone()
elseif is_news then
  local entry = string.format('%.0f %.0f %.0f', seq, math.max(batch, entry_batch),
    math.max(settled, entry_settled))
  redis.call('HSET', KEYS[4], lease, entry, SUM, lease_sums)
  if not known then redis.call('PEXPIREAT', KEYS[4], text(ends + SETTLEMENT_WINDOW)) end
elseif (found_lease[2] or known or behind_until > 0) and lease_sums ~= found_lease[2] then
  redis.call('HSET', KEYS[4], SUM, lease_sums)
  redis.call('PEXPIREAT', KEYS[4], text(ends + SETTLEMENT_WINDOW))
  delete_lease_sums_if_alone()
end

for _, gone in ipairs(expired) do redis.call('HDEL', KEYS[5], gone) end
if is_news and hold > 0 then
  redis.call('HSET', KEYS[5], lease, text(hold) .. ' ' .. text(expires), SUM,
    text(held) .. ' ' .. text(next_expiry))
  if not found_hold[2] then redis.call('PEXPIREAT', KEYS[5], text(ends + SETTLEMENT_WINDOW)) end
elseif scanned or (is_news and own_hold > 0) then
  if is_news and own_hold > 0 then redis.call('HDEL', KEYS[5], lease) end
  if hold_count > 0 then
    redis.call('HSET', KEYS[5], SUM, text(held) .. ' ' .. text(next_expiry))
  else
    redis.call('DEL', KEYS[5])
  end
end

if book_changed then
  local has_terms_to_write =
    terms_changed and ((not is_closed and (is_news or missing > 0)) or restored > 0)
  write_book(book, ends, has_terms_to_write, book_fields)
end
if debits_elsewhere or #current_fields > 0 then
  write_book(current, current_ends, current_is_new, current_fields)
end
-- Last, so that what is noted as moved was moved.
if newly_moved > 0 and redis.call('HEXISTS', KEYS[4], SUM) == 1 then
  lease_moved = add(lease_moved, newly_moved)
  redis.call('HSET', KEYS[4], SUM, lease_sum_text())
end
return answer
