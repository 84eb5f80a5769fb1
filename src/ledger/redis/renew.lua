-- Renews a lease. The same function as `Book::renew` in `../book.rs`, step for step: change both or neither. `account.lua` comes before this.
--
-- KEYS[3]  the period's book
-- KEYS[4]  the period's leases    <lease> = "seq batch settled", sum = "settled forgotten behind_until moved" of all that it ever had;
--                                 moved: what of it was debited in other months
-- KEYS[5]  the period's holds     <lease> = "amount expires", sum = "held next"; gone where nothing is on hold
-- KEYS[6]  the book of the month that the ledger's clock says, where that is another one
-- ARGV     lease seq batch settled reported keep refill need extra included per_seat pay_as_you_go said ttl forget not_after begins ends
--          current_begins current_ends max_lines, then four for each line: name requests micros cost
--
-- Answers "outcome now", and of a renewal also "hold used held limit included limited_by_owner early ended".

local SHARE = 4
local FIRST_LINE = 22
local SAID_AGAIN = 10

local lease = ARGV[1]
local a = {}
for i = 2, 21 do a[i] = tonumber(ARGV[i]) end
local seq, batch, settled, reported, keep, refill, need, extra = a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]
local terms_included, terms_per_seat, terms_on_top, said = a[10], a[11], a[12], math.min(a[13], math.floor(now / 1000))
local ttl, forget, not_after, begins, ends = a[14], a[15] == 1, a[16], a[17], a[18]
local current_begins, current_ends, max_lines = a[19], a[20], a[21]

if now > not_after then return 'late ' .. text(now) end
if now > ends + LATE then return 'closed ' .. text(now) end

-- Everything is read, and checked.
read_record()
local names = {}
for i = FIRST_LINE, #ARGV, 4 do names[#names + 1] = ARGV[i] end
if #names > 0 then names[#names + 1] = 'other' end
local found_lease, found_hold = read('HMGET', KEYS[4], lease, 'sum'), read('HMGET', KEYS[5], lease, 'sum')
local found_book = read('HMGET', KEYS[3], 'total', 'terms', unpack(names))
local found_to = KEYS[6] and read('HMGET', KEYS[3], 'to')
local found_current = KEYS[6] and read('HMGET', KEYS[6], 'total', 'terms', 'late', 'from')
if wrong then return redis.error_reply('MALFORMED ' .. wrong) end

local known = found_lease[1] and true or false
local e = numbers(KEYS[4], lease, found_lease[1], 3, '"seq batch settled"')
local entry_seq, entry_batch, entry_settled = e[1], e[2], e[3]
local beside = numbers(KEYS[4], 'sum', found_lease[2], 4, SUM_BESIDE)
local settled_beside, forgotten_beside, behind_until, moved_beside = beside[1], beside[2], beside[3], beside[4]
local own_hold = numbers(KEYS[5], lease, found_hold[1], 2, '"amount expires"')[1]
local on_hold = numbers(KEYS[5], 'sum', found_hold[2], 2, '"held next"')
local held, next = on_hold[1], on_hold[2]
local current = found_current and open(KEYS[6], found_current, { 'late' })
local book = open(KEYS[3], found_book, names)
local moved_to = KEYS[6] and read_moved(KEYS[3], 'to', found_to[1])
local moved_from = KEYS[6] and read_moved(KEYS[6], 'from', found_current[4])

-- Holds are looked through only when one may have expired.
local scanned, expired, count = (next > 0 and not is_live(next)) or (next == 0 and held > 0), {}, 0
if scanned then
  local all = read('HGETALL', KEYS[5])
  held, next = 0, 0
  for i = 1, #all, 2 do
    if all[i] ~= 'sum' then
      local hold = numbers(KEYS[5], all[i], all[i + 1], 2, '"amount expires"')
      if is_live(hold[2]) then
        held, count = sum(held, hold[1]), count + 1
        if next == 0 or hold[2] < next then next = hold[2] end
      else
        expired[#expired + 1] = all[i]
        if all[i] == lease then own_hold = 0 end
      end
    end
  end
end
local grace = less(now, ttl)
local spent = {}
for _, grant in ipairs(grants) do
  if grant.left == 0 or grant.expires <= grace then spent[#spent + 1] = grant end
end
if #spent > 0 then read('HLEN', KEYS[2]) end
if wrong then return redis.error_reply('MALFORMED ' .. wrong) end

if erased then return 'erased ' .. text(now) end
local is_closed, early = book.period <= closed and now >= ends, now + EARLY < begins
-- What is settled of a month that is closed, or has not begun, is debited in the one that is.
local elsewhere = KEYS[6] and (is_closed or early) and now + EARLY >= current_begins and now <= current_ends + LATE
  and (current.period > closed or now < current_ends)
if early and (not elsewhere or (not known and settled == 0)) then return 'not-begun ' .. text(now) end
if is_closed and not elsewhere then return 'late ' .. text(now) end

-- Brings the sums together that the book and the leases keep of what was settled. Where the leases are behind, they stay behind by what their lost
-- entries had settled, for as long as that may be reported again.
local settled_before, forgotten_before = book.settled, book.forgotten
local was_blank = is_blank(book)
if not found_lease[2] then settled_beside, forgotten_beside = math.min(book.forgotten, book.settled), book.forgotten end
local lacking = less(settled_beside, book.settled)
book.settled = sum(book.settled, lacking)
forgotten_beside = math.max(forgotten_beside, book.forgotten)
local behind = less(book.settled, settled_beside)
if behind_until == 0 then behind_until = now + BEHIND_FOR end
if behind == 0 or not is_live(behind_until) then
  settled_beside, forgotten_beside, behind_until = book.settled, sum(forgotten_beside, behind), 0
end
book.forgotten = forgotten_beside

-- What was settled here and debited in the other month, as this book has it and as that one does. What the leases account for is in another month
-- already, and what this month moved there is not.
local moved, come = 0, 0
if elsewhere then moved, come = moved_to[current.period] or 0, moved_from[book.period] or 0 end
lacking = less(lacking, was_blank and moved_beside or less(come, moved))
local restored = 0
if is_closed and was_blank then restored, lacking = lacking, 0 end
local healed = sum(lacking, less(moved, come))

local unknown_goodbye = forget and not known
local news = not unknown_goodbye and seq > entry_seq
local delta, itemised, brings_lines = 0, 0, false
if news then
  delta = less(settled, entry_settled)
  if batch > entry_batch then
    brings_lines = #names > 0
    for i = FIRST_LINE, #ARGV, 4 do itemised = sum(itemised, tonumber(ARGV[i + 3])) end
  end
  if itemised > delta then return redis.error_reply('REFUSED lines cost more than what is newly settled') end
end

-- What leases report again whose entries were lost is in the book already.
local repeated = math.min(less(book.settled, settled_beside), less(math.min(reported, settled), entry_settled), delta)
local cost = delta - repeated
local debited = math.min(sum(cost, healed), MOST - (elsewhere and current or book).used)
if itemised > less(debited, healed) then itemised, brings_lines = 0, false end

-- Of a month that has ended its own terms count, else the newest that were said; those that are as before are noted now and then.
local terms_changed = false
if now < ends or not book.has_terms then
  -- What was said while the clock was ahead of what it is counts no more.
  local before = book.said <= math.floor(now / 1000) and book.said or 0
  local same = terms_included == book.included_each and terms_per_seat == book.per_seat and terms_on_top == book.pay_as_you_go
  if not book.has_terms or (said >= before and (not same or said >= before + SAID_AGAIN)) then
    book.included_each, book.per_seat, book.pay_as_you_go, book.said, terms_changed = terms_included, terms_per_seat, terms_on_top, said, true
  end
  if book.seats ~= seats then book.seats, terms_changed = seats, true end
end

local book_changed = news or lacking > 0 or book.settled ~= settled_before or book.forgotten ~= forgotten_before
if not elsewhere or restored > 0 then
  book_changed = match_drawn(book, grace) or book_changed or restored > 0
  if brings_lines and not elsewhere then
    for i = FIRST_LINE, #ARGV, 4 do
      local name = ARGV[i]
      if not book.sums[name] and book.lines >= max_lines then name = 'other' end
      local found = line(book, name)
      for part = 1, 3 do found[part] = sum(found[part], tonumber(ARGV[i + part])) end
    end
  end
  debit(book, elsewhere and restored or debited, grace)
  book.recovered = sum(book.recovered, elsewhere and restored or less(debited, itemised))
end

-- What is settled of a closed month, or of one that has not begun, is paid in another; and past the largest amount there is nothing.
local function standing()
  if is_closed or early or book.used == MOST then return net(book) end
  return sum(sum(sum(included(book), book.drawn), purchased(book, now)), most_on_top(book))
end

local outcome = 'renewed'
if unknown_goodbye then outcome = 'forgotten' elseif seq < entry_seq then outcome = 'superseded' end

local hold, leaves, expires = own_hold, false, now + ttl
if news then
  settled_beside, book.settled = sum(settled_beside, delta), sum(book.settled, cost)

  -- Hold: what is kept is kept by right; scarcity limits only what is more, and only what runs gets more of a month that it is not.
  local others = less(held, own_hold)
  local kept = math.min(keep, less(own_hold, cost))
  local available = less(less(less(standing(), net(book)), others), kept)
  if now >= ends or early then need, extra = 0, 0 end
  local more = math.min(sum(sum(keep - kept, refill), need), available)
  hold = kept + more + math.min(extra, math.floor((available - more) / SHARE))
  if hold > 0 then
    held = sum(others, hold)
    if next == 0 or expires < next then next = expires end
  elseif own_hold > 0 then
    if not scanned then count = redis.call('HLEN', KEYS[5]) - 1 end
    held, count = others, count - 1
    if count == 0 then held, next = 0, 0 end
  end

  -- What this period's holds may draw from purchased credits is pledged, so that another period does not hold it too.
  local pledge = math.min(less(held, included_left(book)), purchased(book, now))
  for other, was in pairs(pledges) do
    if (other == book.period and pledge == 0) or (other ~= book.period and not is_live(was.till)) then
      record_gone[#record_gone + 1] = 'pledge:' .. other
      pledges[other] = nil
    end
  end
  if pledge > 0 then
    pledges[book.period] = { amount = pledge, till = expires }
    change_record('pledge:' .. book.period, text(pledge) .. ' ' .. text(expires))
  end

  -- (6) A goodbye that brought news is none.
  leaves = forget and hold == 0 and delta == 0
  if leaves then
    forgotten_beside = math.min(sum(forgotten_beside, math.max(settled, entry_settled)), settled_beside)
    book.forgotten, outcome = forgotten_beside, 'forgotten'
  end
end

local answer = outcome .. ' ' .. text(now)
if outcome == 'renewed' then
  answer = string.format('renewed %.0f %.0f %.0f %.0f %.0f %.0f %d %d %d', now, hold, net(book), held, standing(), included(book),
    most_on_top(book) < book.pay_as_you_go and 1 or 0, early and 1 or 0, now >= ends and 1 or 0)
end

local debits_elsewhere = elsewhere and (brings_lines or debited > 0)
local book_fields, current_fields, moves = {}, {}, 0
if elsewhere then
  local all = sum(math.max(moved, come), less(debited, less(moved, come)))
  if all > moved then
    moved_to[current.period] = all
    book_fields, book_changed = { 'to', moved_text(moved_to) }, true
  end
  if all > come then
    moved_from[book.period] = all
    current_fields = { 'from', moved_text(moved_from) }
  end
  moves = all - math.max(moved, come)
end
local current_is_new = debits_elsewhere and not current.has_terms
if debits_elsewhere then
  if current_is_new then
    current.included_each, current.per_seat, current.pay_as_you_go = terms_included, terms_per_seat, terms_on_top
    current.seats, current.said = seats, said
  end
  local late = line(current, 'late')
  if brings_lines then
    for i = FIRST_LINE, #ARGV, 4 do
      for part = 1, 2 do late[part] = sum(late[part], tonumber(ARGV[i + part])) end
    end
  end
  late[3] = sum(late[3], debited)
  match_drawn(current, grace)
  debit(current, debited, grace)
end

-- From here on nothing fails. The leases are written before the book, so that a write that is torn between them is seen in their sums.
if news then
  for _, grant in ipairs(spent) do
    redis.call('HSET', KEYS[2], grant.field, grant_text(grant))
    record_gone[#record_gone + 1] = grant.field
  end
end
write_record()

local function sum_text() return string.format('%.0f %.0f %.0f %.0f', settled_beside, forgotten_beside, behind_until, moved_beside) end
local sum_beside = sum_text()
if leaves then
  redis.call('HSET', KEYS[4], 'sum', sum_beside)
  redis.call('HDEL', KEYS[4], lease)
  if behind_until == 0 and redis.call('HLEN', KEYS[4]) == 1 then redis.call('DEL', KEYS[4]) end
elseif news then
  local entry = string.format('%.0f %.0f %.0f', seq, math.max(batch, entry_batch), math.max(settled, entry_settled))
  redis.call('HSET', KEYS[4], lease, entry, 'sum', sum_beside)
  if not known then redis.call('PEXPIREAT', KEYS[4], text(ends + LATE)) end
elseif (found_lease[2] or known or behind_until > 0) and sum_beside ~= found_lease[2] then
  redis.call('HSET', KEYS[4], 'sum', sum_beside)
  redis.call('PEXPIREAT', KEYS[4], text(ends + LATE))
  if behind_until == 0 and redis.call('HLEN', KEYS[4]) == 1 then redis.call('DEL', KEYS[4]) end
end

for _, gone in ipairs(expired) do redis.call('HDEL', KEYS[5], gone) end
if news and hold > 0 then
  redis.call('HSET', KEYS[5], lease, text(hold) .. ' ' .. text(expires), 'sum', text(held) .. ' ' .. text(next))
  if not found_hold[2] then redis.call('PEXPIREAT', KEYS[5], text(ends + LATE)) end
elseif scanned or (news and own_hold > 0) then
  if news and own_hold > 0 then redis.call('HDEL', KEYS[5], lease) end
  if count > 0 then
    redis.call('HSET', KEYS[5], 'sum', text(held) .. ' ' .. text(next))
  else
    redis.call('DEL', KEYS[5])
  end
end

if book_changed then write_book(book, ends, terms_changed and ((not is_closed and (news or lacking > 0)) or restored > 0), book_fields) end
if debits_elsewhere or #current_fields > 0 then write_book(current, current_ends, current_is_new, current_fields) end
-- Last, so that what is noted as moved was.
if moves > 0 and redis.call('HEXISTS', KEYS[4], 'sum') == 1 then
  moved_beside = sum(moved_beside, moves)
  redis.call('HSET', KEYS[4], 'sum', sum_text())
end
return answer
