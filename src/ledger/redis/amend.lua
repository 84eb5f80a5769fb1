-- Changes an account, corrects or closes one of its months, or erases it. The same functions as
-- `AccountState::amend` and `AccountState::claim` in Rust, step for step: change both or neither.
-- `head.lua`, `numbers.lua` and `account.lua` come before this.
--
-- ARGV[1]  the action, and its keys and arguments:
--   grant  id "amount left expires"
--   set    field value              of the record, or of KEYS[3] the account's parts
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
  -- In the background, as far as the server can.
  redis.call('UNLINK', unpack(KEYS))
  redis.call('HSET', KEYS[1], ERASED, text(now))
  redis.call('PEXPIREAT', KEYS[1], text(now + ERASED_FOR))
  return 1
end
if erased then return refused('the account was erased: it can be used again 93 days after that') end

-- These can mend a field that is malformed.
if action == 'set' then
  if KEYS[3] and redis.call('HLEN', KEYS[3]) >= MAX_PART_FIELDS
    and redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then
    return refused(TOO_MANY_PARTS)
  end
  redis.call('HSET', KEYS[3] or KEYS[1], ARGV[2], ARGV[3])
  return 1
elseif action == 'unset' then
  redis.call('HDEL', KEYS[3] or KEYS[1], ARGV[2])
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
  local settled = numbers(KEYS[4], SUM, sums, NUMBERS_4, FORM_LEASE_SUM)
  return settled
end

-- Accounted for by the leases and missing in the book: a write was torn. The terms of a book that
-- was lost are not known before a request states them, or someone reads the statement.
local function missing_in(b, settled_by_leases)
  if is_empty(b) then return 0 end
  return min(subtract(settled_by_leases, b.settled), MAX_AMOUNT - b.used)
end

-- Debits what was missing. Answers if the book changed.
local function repair(b, missing)
  local changed = (PURCHASED and PURCHASED.match(b, now)) or missing > 0
  b.settled = add(b.settled, missing)
  debit(b, missing, now)
  b.recovered = add(b.recovered, missing)
  return changed
end

local function close(period, ends)
  if now < ends then return refused(period .. ' has not ended: close it once it has') end
  if period <= closed then return 0 end
  local found, settled = read('HMGET', KEYS[3], TOTAL, TERMS), settled_by_leases()
  local book = open_book(KEYS[3], found, {}, ends)
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
  PURCHASED.sort()
  for i = #grants, 1, -1 do
    local grant = grants[i]
    local given = grant.expires > now and min(rest, subtract(grant.amount, grant.left)) or 0
    if given > 0 then
      grant.left, rest = add(grant.left, given), rest - given
      change_record(grant.field, PURCHASED.grant_text(grant))
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
  local book, spent = open_book(KEYS[3], found, {}, ends), read_spent_grants()
  if wrong then return malformed() end
  local period = book.period
  if period <= closed and now >= ends then
    return refused(period .. ' is closed: refund in a later month, or grant credits')
  end
  if amount == 0 then return refused('a refund of nothing: refund some amount') end
  local missing = missing_in(book, settled)
  local cost = add(net(book), missing)
  if amount > cost then
    return refused(format(
      'a refund of %d nano-dollars is more than %s costs: refund at most %d, or grant credits',
      amount, period, cost))
  end
  local refunds = count - book.line_count
  for _, other in ipairs({ 1, 2, 4, 5 }) do refunds = refunds - (found[other] and 1 or 0) end
  if refunds >= MAX_REFUNDS then
    return refused(format('%s has %d refunds already: grant credits', period, MAX_REFUNDS))
  end

  -- What was missing is not taken from spent grants.
  repair(book, missing)
  PURCHASED = PURCHASED or purchased()
  for _, grant in ipairs(spent) do grants[#grants + 1] = grant end
  local given, revived =
    give_back(min(subtract(amount, pay_as_you_go(book)), book.purchased_used))
  book.charged, book.refunded = subtract(book.charged, amount), add(book.refunded, amount)
  if given > 0 then
    book.purchased_used = subtract(book.purchased_used, given)
    PURCHASED.note_used(period, subtract(purchased_used_by[period] or 0, given))
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
