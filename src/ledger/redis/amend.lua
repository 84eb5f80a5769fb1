-- Changes what an account keeps, corrects or closes one of its months, or erases it. The same functions as those of `Book`, `Record` and `Kept` in
-- Rust, step for step: change both or neither. `account.lua` comes before this.
--
-- ARGV[1]  what to do, and with which keys and arguments:
--   grant  id "amount left expires"
--   set    field value              of the record
--   unset  field
--   refund ends id amount reason    KEYS[3] the period's book, KEYS[4] its leases
--   close  period ends              KEYS[3] the period's book, KEYS[4] its leases
--   claim  threshold by ends        KEYS[3] the period's notes: claim:<threshold> = who tells of it
--   erase                           KEYS[3..] all that is to go
--
-- Answers 1, or 0 for what was done before, or what another one claimed.

local what = ARGV[1]

read_record()
local function refused(why) return redis.error_reply('REFUSED ' .. why) end

if what == 'erase' then
  if erased then return 0 end
  redis.call('DEL', unpack(KEYS))
  redis.call('HSET', KEYS[1], 'erased', text(now))
  redis.call('PEXPIREAT', KEYS[1], text(now + KEEP_ERASED))
  return 1
end
if erased then return refused('the account was erased: it can be used again 93 days after that') end

-- These can mend a field that is malformed.
if what == 'set' then
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
  return 1
elseif what == 'unset' then
  redis.call('HDEL', KEYS[1], ARGV[2])
  return 1
end
if wrong then return redis.error_reply('MALFORMED ' .. wrong) end

if what == 'grant' then
  local field = 'grant:' .. ARGV[2]
  if read('HEXISTS', KEYS[2], field) == 1 then return 0 end
  if wrong then return redis.error_reply('MALFORMED ' .. wrong) end
  return redis.call('HSETNX', KEYS[1], field, ARGV[3])
elseif what == 'close' then
  local period, ends = ARGV[2], tonumber(ARGV[3])
  if now < ends then return refused(period .. ' has not ended: it can be closed once it has') end
  if period <= closed then return 0 end
  local found, sum_beside = read('HMGET', KEYS[3], 'total', 'terms'), read('HMGET', KEYS[4], 'sum')[1]
  local settled_beside = numbers(KEYS[4], 'sum', sum_beside, 4, SUM_BESIDE)[1]
  local book = open(KEYS[3], found, {})
  if wrong then return redis.error_reply('MALFORMED ' .. wrong) end
  local healed = not is_blank(book) and heal(book, lacking_of(book, settled_beside))
  -- The month is closed last, so that a close that is torn can be made again.
  write_record()
  if healed then write_book(book, ends, false, {}) end
  redis.call('HSET', KEYS[1], 'closed', period)
  return 1
elseif what == 'claim' then
  local field, by = 'claim:' .. ARGV[2], ARGV[3]
  local holder = read('HMGET', KEYS[3], field)[1]
  if wrong then return redis.error_reply('MALFORMED ' .. wrong) end
  if holder then return holder == by and 1 or 0 end
  redis.call('HSET', KEYS[3], field, by)
  redis.call('PEXPIREAT', KEYS[3], text(tonumber(ARGV[4]) + KEEP_BOOKS))
  return 1
end

local ends, field, amount, reason = tonumber(ARGV[2]), 'refund:' .. ARGV[3], tonumber(ARGV[4]), ARGV[5]
local found = read('HMGET', KEYS[3], 'total', 'terms', field, 'to', 'from')
local sum_beside = read('HMGET', KEYS[4], 'sum')[1]
local settled_beside = numbers(KEYS[4], 'sum', sum_beside, 4, SUM_BESIDE)[1]
local count = read('HLEN', KEYS[3])
local spent = read('HGETALL', KEYS[2])
if wrong then return redis.error_reply('MALFORMED ' .. wrong) end
if found[3] then return 0 end
local book = open(KEYS[3], found, {})
local in_use, put_aside = {}, {}
for _, grant in ipairs(grants) do in_use[grant.field] = true end
for i = 1, #spent, 2 do
  local grant = read_grant(KEYS[2], spent[i], spent[i + 1])
  -- One that stands in both was being put aside when something was lost.
  if grant and not in_use[grant.field] then
    grant.is_spent = true
    put_aside[#put_aside + 1] = grant
  end
end
if wrong then return redis.error_reply('MALFORMED ' .. wrong) end
if book.period <= closed and now >= ends then return refused(book.period .. ' is closed: refund in a later month, or grant credits') end
local refunds = count - book.lines
for _, other in ipairs({ 1, 2, 4, 5 }) do refunds = refunds - (found[other] and 1 or 0) end
local lacking = lacking_of(book, settled_beside)
if amount == 0 or amount > sum(net(book), lacking) or refunds >= 2000 then
  return refused('a refund is of some amount, of no more than the month cost, and one of 2 000 at most: grant credits instead')
end

heal(book, lacking)
for _, grant in ipairs(put_aside) do grants[#grants + 1] = grant end
local returned = math.min(less(amount, on_top(book)), book.drawn)
local before = returned
book.charged, book.refunded = less(book.charged, amount), sum(book.refunded, amount)
sort_grants(grants)
local revived = {}
for i = #grants, 1, -1 do
  local grant = grants[i]
  local given = grant.expires > now and math.min(returned, less(grant.amount, grant.left)) or 0
  if given > 0 then
    grant.left, returned = sum(grant.left, given), returned - given
    change_record(grant.field, grant_text(grant))
    if grant.is_spent then revived[#revived + 1] = grant.field end
  end
end
if returned < before then
  book.drawn = less(book.drawn, before - returned)
  note_drawn(book.period, less(drawn_by[book.period] or 0, before - returned))
end
-- The record first: of a write that is torn between them, the next renewal draws again what was given back, and the refund can be sent again.
write_record()
in_chunks('HDEL', KEYS[2], revived)
write_book(book, ends, false, { field, text(amount) .. ' ' .. reason })
return 1
