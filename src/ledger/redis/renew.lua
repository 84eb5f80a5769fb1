-- Renews a lease: the same function as `Book::renew` in `../book/renewal.rs`, step for step. Before
-- it come `head.lua`, `plain.lua`, `numbers.lua` and `account.lua`. `plain.lua` answers plain
-- renewals, and leaves the rest here, with what it read in `found_..`. Change all three or none.
--
-- KEYS[3]  the period's book
-- KEYS[4]  the period's leases
-- KEYS[5]  the period's holds; the key is gone if nothing is on hold
-- KEYS[6]  the account's parts, if the lease draws on some; then
-- KEYS[7]  the period's parts
-- The last of more keys is the book of the month that it is by the ledger's clock, if that is
-- another one.
-- ARGV     lease; the terms as a book has them, without seats; "parts most_per_day permits rate
--          included_per_day most_running running wanted", of which the last words can be left out,
--          and `-` stands for none; numbers. Then two for each part: its name, and numbers
--          per_month per_day; and two for each line: its name, and numbers requests micros cost.
--
-- Numbers are packed as doubles, each of 8 bytes, which takes a server less time than one argument
-- for each. Those of the renewal are: seq batch settled reported keep refill need extra included
-- per_seat pay_as_you_go stated_at ttl forget not_after begins ends current_begins current_ends
-- max_lines.
--
-- Answers "outcome now", and of a renewal that took effect also "hold used held limit included
-- limited_by_owner early ended". If a limit of the account's day or of a part leaves less than the
-- account has: "level is_day limit used held resets_at" of the one that leaves least. Then, if a
-- part has a limit for the month, "parts limit used ..." of each part, with `-` for those without;
-- if a share is asked for, "running granted remaining"; and if permits are asked for, "permits
-- granted remaining next_after reset_after", in microseconds.

local ARGV = ARGV
local lease = ARGV[1]
local seq, batch, settled, reported, keep, refill, need, extra, terms_included, terms_per_seat,
  terms_max, stated_at, ttl, forget, not_after, begins, ends, current_begins, current_ends,
  max_lines = read_packed(RENEWAL_NUMBERS, ARGV[4])
local now_seconds = floor(now / 1000)
-- A node whose clock is ahead must not pin its terms.
stated_at = min(stated_at, now_seconds)
forget = forget == 1
-- What few renewals have: the parts of the account that the lease draws on (`count`), the limit of
-- the account's day, permits, a share of concurrent requests, credits of a day; and the functions
-- of these, which are only made if they are needed.
local P = { count = 0, most_per_day = MAX_AMOUNT, included_per_day = 0, drawn = {},
  has_limits = false, cost = 0, share_answer = '' }
if ARGV[3] ~= '0' then
  local words = {}
  for word in string.gmatch(ARGV[3], '%S+') do words[#words + 1] = word end
  P.count, P.most_per_day = tonumber(words[1]), tonumber(words[2]) or MAX_AMOUNT
  P.wanted, P.rate = tonumber(words[3]), words[4] ~= NOT_SET and words[4] or nil
  P.included_per_day = tonumber(words[5]) or 0
  P.most_running, P.running, P.share_wanted =
    tonumber(words[6]), tonumber(words[7]), tonumber(words[8])
end
local FIRST_LINE = FIRST_PART + 2 * P.count
local current_key = KEYS[P.count > 0 and 8 or 6]
local read_moved, moved_text
if current_key then
  -- Amounts that were moved between months, by the other month.
  function read_moved(key, field, value)
    local moved = {}
    if value and string.gsub(value, '%d%d%d%d%-%d%d %d+ ?', '') ~= '' then
      note_malformed(key, field, value, FORM_MOVED)
    end
    for month, amount in string.gmatch(value or '', '(%S+) (%d+)') do
      moved[month] = numbers(key, field, amount, NUMBERS_1, FORM_MOVED)
    end
    return moved
  end

  function moved_text(moved)
    local words = {}
    for month, amount in pairs(moved) do words[#words + 1] = month .. ' ' .. text(amount) end
    return table.concat(words, ' ')
  end
end

if P.count > 0 then
  -- `own_hold` and `next_expiry`, `totals` by name, and their changes: fields and values of the
  -- account's parts and of the period's, and fields to delete.
  P.own_hold, P.next_expiry, P.totals = 0, 0, {}
  P.day_changes, P.day_deletions, P.changes, P.deletions = {}, {}, {}, {}

  function P.total(name)
    if not P.totals[name] then P.totals[name] = { used = 0, held = 0 } end
    return P.totals[name]
  end

  function P.read_limits(part, field, value)
    if not value then return end
    for i, word in ipairs({ match(value, '^(%S+) (%S+)$') }) do
      local limit = tonumber(word)
      if limit and limit <= MAX_AMOUNT then
        part[i == 1 and 'per_month' or 'per_day'] = limit
      elseif word ~= NOT_SET then
        note_malformed(KEYS[6], field, value, '"per_month per_day"')
      end
    end
    if not match(value, '^%S+ %S+$') then
      note_malformed(KEYS[6], field, value, '"per_month per_day"')
    end
  end

  function P.read_total(name, field, value)
    local used, held = numbers(KEYS[7], field, value, NUMBERS_2, '"used held"')
    P.totals[name] = { used = used, held = held }
  end

  -- Answers a hold's amount, when it expires, and its parts.
  function P.read_hold(field, value)
    local amount, expires, names = match(value, '^(%d+) (%d+) (.*)$')
    amount, expires = tonumber(amount), tonumber(expires)
    if not (amount and expires) or amount > MAX_AMOUNT then
      note_malformed(KEYS[7], field, value, '"amount expires parts"')
      return 0, 0, ''
    end
    return amount, expires, names
  end

  -- Releases the holds that nobody renewed in time, and adds up the others anew.
  function P.release()
    local all = read('HGETALL', KEYS[7])
    local held = {}
    P.next_expiry = 0
    for i = 1, #all, 2 do
      local field, value = all[i], all[i + 1]
      if has_prefix(field, PART_TOTAL) then
        P.read_total(sub(field, #PART_TOTAL + 1), field, value)
      elseif has_prefix(field, PART_HOLD) then
        local amount, expires, names = P.read_hold(field, value)
        if is_live(expires) then
          for name in string.gmatch(names, '[^' .. SEPARATOR .. ']+') do
            held[name] = add(held[name] or 0, amount)
          end
          if P.next_expiry == 0 or expires < P.next_expiry then P.next_expiry = expires end
        else
          P.deletions[#P.deletions + 1] = field
          if field == PART_HOLD .. lease then P.own_hold = 0 end
        end
      end
    end
    for name in pairs(held) do P.total(name) end
    for name, total in pairs(P.totals) do
      total.held, total.changed = held[name] or 0, true
    end
    if P.next_expiry == 0 then
      P.deletions[#P.deletions + 1] = NEXT_EXPIRY
    else
      P.changes = { NEXT_EXPIRY, text(P.next_expiry) }
    end
  end

  -- Reads the parts that the lease draws on.
  function P.read()
    local drawn, of_account, of_month = {}, {}, { NEXT_EXPIRY, PART_HOLD .. lease }
    for i = 1, P.count do
      local name = ARGV[FIRST_PART + 2 * i - 2]
      local per_month, per_day = read_packed(PART_NUMBERS, ARGV[FIRST_PART + 2 * i - 1])
      drawn[i] = { name = name, per_month = per_month, per_day = per_day }
      of_account[2 * i - 1], of_account[2 * i] = PART_LIMITS .. name, PART_TODAY .. name
      of_month[i + 2] = PART_TOTAL .. name
    end
    of_account[2 * P.count + 1] = PARTS_DAY
    local found = read('HMGET', KEYS[6], unpack(of_account))
    local found_month = read('HMGET', KEYS[7], unpack(of_month))
    P.parts_day =
      numbers(KEYS[6], PARTS_DAY, found[2 * P.count + 1], NUMBERS_1, 'days since 1970')
    P.next_expiry =
      numbers(KEYS[7], NEXT_EXPIRY, found_month[1], NUMBERS_1, 'milliseconds since 1970')
    if found_month[2] then P.own_hold = P.read_hold(of_month[2], found_month[2]) end
    for i, part in ipairs(drawn) do
      P.read_limits(part, of_account[2 * i - 1], found[2 * i - 1])
      part.last_day, part.used_on_last_day =
        numbers(KEYS[6], of_account[2 * i], found[2 * i], NUMBERS_2, '"day used"')
      if found_month[i + 2] then P.read_total(part.name, of_month[i + 2], found_month[i + 2]) end
      part.is_new = not found_month[i + 2]
    end
    if P.next_expiry > 0 and not is_live(P.next_expiry) then P.release() end
    return drawn
  end
end

local function without_effect(outcome) return outcome .. ' ' .. text(now) end

if now > not_after then return without_effect(LATE_RENEWAL) end
if now > ends + SETTLEMENT_WINDOW then return without_effect(PERIOD_CLOSED) end

-- Everything is read, and checked.
read_record(found_record)
if P.included_per_day > 0 then DAYS = DAYS or days() end
local names, lines = {}, {}
for i = FIRST_LINE, #ARGV, 2 do
  local requests, micros, cost = read_packed(LINE_NUMBERS, ARGV[i + 1])
  names[#names + 1] = ARGV[i]
  lines[#lines + 1] = { requests, micros, cost }
end
found_lease = checked(KEYS[4], found_lease or redis.pcall('HMGET', KEYS[4], lease, SUM))
found_hold = checked(KEYS[5], found_hold or redis.pcall('HMGET', KEYS[5], lease, SUM))
found_book =
  checked(KEYS[3], found_book or redis.pcall('HMGET', KEYS[3], TOTAL, TERMS, unpack(names)))
if #names > 0 then
  names[#names + 1] = OTHER_LINE
  found_book[#names + 2] = read('HGET', KEYS[3], OTHER_LINE)
end
local found_to = current_key and read('HMGET', KEYS[3], MOVED_TO)
local found_current = current_key
  and read('HMGET', current_key, TOTAL, TERMS, LATE_LINE, MOVED_FROM)
if wrong then return malformed() end

local known = found_lease[1] and true or false
local entry_seq, entry_batch, entry_settled =
  numbers(KEYS[4], lease, found_lease[1], NUMBERS_3, '"seq batch settled"')
local lease_settled, lease_forgotten, behind_until, lease_moved =
  numbers(KEYS[4], SUM, found_lease[2], NUMBERS_4, FORM_LEASE_SUM)
local own_hold = numbers(KEYS[5], lease, found_hold[1], NUMBERS_2, '"amount expires"')
local held, next_expiry = numbers(KEYS[5], SUM, found_hold[2], NUMBERS_2, '"held next"')
local current = found_current and open_book(current_key, found_current, { LATE_LINE }, current_ends)
local book = open_book(KEYS[3], found_book, names, ends)
local moved_to = current_key and read_moved(KEYS[3], MOVED_TO, found_to[1])
local moved_from = current_key and read_moved(current_key, MOVED_FROM, found_current[4])

if P.count > 0 then P.drawn = P.read() end

-- Holds are scanned only when one may have expired.
local scanned = (next_expiry > 0 and not is_live(next_expiry)) or (next_expiry == 0 and held > 0)
local expired, hold_count = {}, 0
if scanned then
  local all = read('HGETALL', KEYS[5])
  held, next_expiry = 0, 0
  for i = 1, #all, 2 do
    if all[i] ~= SUM then
      local amount, expires =
        numbers(KEYS[5], all[i], all[i + 1], NUMBERS_2, '"amount expires"')
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
local elsewhere = current_key and (is_closed or early) and now + CLOCK_SKEW >= current_begins
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
  lease_settled, lease_forgotten = min(book.forgotten, book.settled), book.forgotten
end
local missing = subtract(lease_settled, book.settled)
book.settled = add(book.settled, missing)
lease_forgotten = max(lease_forgotten, book.forgotten)
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
    for _, line in ipairs(lines) do lines_cost = add(lines_cost, line[3]) end
  end
  if lines_cost > delta then
    return refused(format('the lines of batch %d cost %d nano-dollars, and only %d '
      .. 'are newly settled: send lines that cost no more', batch, lines_cost, delta))
  end
end

-- What leases report again because their entries were lost is in the book already.
local reported_again = min(subtract(book.settled, lease_settled),
  subtract(min(reported, settled), entry_settled), delta)
local cost = delta - reported_again
local debited = min(add(cost, repaired), MAX_AMOUNT - (elsewhere and current or book).used)
if lines_cost > subtract(debited, repaired) then lines_cost, brings_lines = 0, false end

-- Of a month that has ended its own terms count, else the newest that were stated. Terms that are
-- as before are noted at intervals.
local terms_changed = false
if now < ends or not book.has_terms then
  -- Terms that were stated while the ledger's clock was ahead count no more.
  local before = book.stated_at <= now_seconds and book.stated_at or 0
  local same = terms_included == book.included_each and terms_per_seat == book.per_seat
    and terms_max == book.max_pay_as_you_go and P.included_per_day == book.included_per_day
  if not book.has_terms or (stated_at >= before
    and (not same or stated_at >= before + NOTE_SAME_TERMS_EVERY)) then
    book.included_each, book.per_seat, book.max_pay_as_you_go, book.stated_at =
      terms_included, terms_per_seat, terms_max, stated_at
    book.included_per_day = P.included_per_day
    terms_changed = true
  end
  if book.seats ~= seats then book.seats, terms_changed = seats, true end
end

P.most_per_day = min(P.most_per_day, per_day or MAX_AMOUNT)
P.has_limits = P.most_per_day < MAX_AMOUNT or P.count > 0
if P.has_limits then
  P.today = floor(now / 86400000)
  function P.on_today(day, used) return day == P.today and used or 0 end
end

-- Counts what is settled in the parts. What is debited in another month counts in the day's totals
-- alone.
P.cost = subtract(debited, repaired)
if P.has_limits and is_news and P.cost > 0 then
  if P.most_per_day < MAX_AMOUNT then
    last_day, used_on_last_day = P.today, add(P.on_today(last_day, used_on_last_day), P.cost)
    change_record(TODAY, text(last_day) .. ' ' .. text(used_on_last_day))
  end
  if P.count > 0 and P.parts_day ~= P.today then
    -- Else the counts of parts that are used no more would stay for ever.
    local all = redis.call('HGETALL', KEYS[6])
    for i = 1, #all, 2 do
      local day = has_prefix(all[i], PART_TODAY) and match(all[i + 1], '^(%d+) ')
      if day and day + PART_DAYS < P.today then P.day_deletions[#P.day_deletions + 1] = all[i] end
    end
    P.day_changes = { PARTS_DAY, text(P.today) }
  end
  for _, part in ipairs(P.drawn) do
    part.used_on_last_day = add(P.on_today(part.last_day, part.used_on_last_day), P.cost)
    part.last_day = P.today
    P.day_changes[#P.day_changes + 1] = PART_TODAY .. part.name
    P.day_changes[#P.day_changes + 1] = text(P.today) .. ' ' .. text(part.used_on_last_day)
    if not elsewhere then
      local total = P.total(part.name)
      total.used, total.changed = add(total.used, P.cost), true
    end
  end
end

-- The terms, as far as they are of days, are written with the record.
P.keeps_terms = (not is_closed and (is_news or missing > 0)) or restored > 0
if DAYS and P.keeps_terms then DAYS.note_terms(book) end

local book_changed = is_news or missing > 0 or book.settled ~= settled_before
  or book.forgotten ~= forgotten_before
if not elsewhere or restored > 0 then
  book_changed = (PURCHASED and PURCHASED.match(book, grants_valid_at)) or book_changed
    or restored > 0
  if brings_lines and not elsewhere then
    for i, more in ipairs(lines) do
      local name = names[i]
      if not book.lines[name] and book.line_count >= max_lines then name = OTHER_LINE end
      local line = line_of(book, name)
      for part = 1, 3 do line[part] = add(line[part], more[part]) end
    end
  end
  debit(book, elsewhere and restored or debited, grants_valid_at)
  book.recovered =
    add(book.recovered, elsewhere and restored or subtract(debited, lines_cost))
end

-- Included credits of the month, of its days as far as they were used, and of today.
local included_so_far = DAYS and DAYS.included_so_far(book) or included(book)

-- The most that can be used. Usage of a closed month, or of one that has not begun, is debited in
-- another. No total grows beyond the largest amount.
local cost_of_month, pay_as_you_go_limit = net(book), max_pay_as_you_go(book)
local limit = cost_of_month
if not (is_closed or early or book.used == MAX_AMOUNT) then
  limit = add(included_so_far, book.purchased_used)
  if PURCHASED then limit = add(limit, PURCHASED.available(book, now)) end
  limit = add(limit, pay_as_you_go_limit)
end

if P.has_limits then
  -- Calls `see(level, is_day, limit, used, held)` for each limit that the lease draws on besides
  -- the account's.
  function P.each_limit(see)
    if P.most_per_day < MAX_AMOUNT then
      see(0, 1, P.most_per_day, P.on_today(last_day, used_on_last_day), held)
    end
    for level, part in ipairs(P.drawn) do
      local total = P.totals[part.name] or { used = 0, held = 0 }
      if part.per_month < MAX_AMOUNT then see(level, 0, part.per_month, total.used, total.held) end
      if part.per_day < MAX_AMOUNT then
        see(level, 1, part.per_day, P.on_today(part.last_day, part.used_on_last_day), total.held)
      end
    end
  end
end

if P.rate then
  -- Takes permits of the account's request rate if the renewal is news, and answers what it says of
  -- them.
  function P.permits()
    local micros, wanted = now * 1000, is_news and P.wanted or 0
    local count, per, burst = match(P.rate, '^(%d+)/(%d+)/?(%d*)$')
    count, per, burst = tonumber(count), tonumber(per), tonumber(burst)
    local cell = rates[P.rate] or { at = 0, used = 0 }
    local available, granted, next_after, reset_after
    if burst then
      local interval = math.ceil(per / count)
      local tolerance = min(interval * burst, MAX_TOLERANCE)
      -- A cell that is farther ahead was written by a clock that was.
      local at = min(max(cell.at, micros), micros + tolerance)
      available = floor((micros + tolerance - at) / interval)
      granted = min(available, wanted)
      cell = { at = at + granted * interval, used = 0 }
      reset_after = cell.at - micros
      next_after = subtract(reset_after + interval, tolerance)
    else
      local window = floor(micros / per)
      if cell.at ~= window then cell = { at = window, used = 0 } end
      available = subtract(count, cell.used)
      granted = min(available, wanted)
      cell.used = cell.used + granted
      reset_after = (window + 1) * per - micros
      next_after = reset_after
    end
    if available > granted then next_after = 0 end
    if is_news then
      rates[P.rate] = cell
      for rate, other in pairs(rates) do
        local _, other_per, other_burst = match(rate, '^(%d+)/(%d+)/?(%d*)$')
        local is_over = other_burst == '' and other.at ~= floor(micros / other_per)
          or other_burst ~= '' and other.at <= micros
        if is_over then
          delete_from_record(RATE .. rate)
        elseif rate == P.rate then
          change_record(RATE .. rate, text(other.at) .. ' ' .. text(other.used))
        end
      end
    end
    return format('%d %d %d %d', granted, available - granted, next_after, reset_after)
  end
end

if P.most_running or (shares and shares[lease]) then
  -- Sets the lease's share of the requests that may run at the same time if the renewal is news,
  -- and answers what it says of it.
  shares = shares or {}
  function P.share()
    local before = shares[lease]
    local function lasts(share)
      return now < share.expires and share.expires <= now + SHARE_LIFETIME
    end
    before = before and lasts(before) and before.count or 0
    local others = 0
    for other, share in pairs(shares) do
      if lasts(share) then
        if other ~= lease then others = min(MAX_RUNNING, others + share.count) end
      elseif is_news and other ~= lease then
        delete_from_record(SHARE .. other)
      end
    end
    local left = subtract(P.most_running or 0, others)
    local granted = 0
    if P.most_running then
      -- In another month than the current one, nothing begins.
      local wanted = (now >= ends or early) and min(P.share_wanted, P.running) or P.share_wanted
      granted = is_news and max(min(P.running, before), min(wanted, left)) or before
    end
    if is_news and granted > 0 then
      change_record(SHARE .. lease, text(granted) .. ' ' .. text(now + SHARE_LIFETIME))
    elseif is_news and shares[lease] then
      delete_from_record(SHARE .. lease)
    end
    return P.most_running
      and RUNNING .. text(granted) .. ' ' .. text(subtract(left, granted)) or ''
  end
end

if P.count > 0 then
  -- Answers what the parts used of their months' limits.
  function P.months()
    local words, has_limit = {}, false
    for i, part in ipairs(P.drawn) do
      local total = P.totals[part.name]
      if part.per_month < MAX_AMOUNT then
        words[i] = text(part.per_month) .. ' ' .. text(total and total.used or 0)
        has_limit = true
      else
        words[i] = NOT_SET .. ' ' .. NOT_SET
      end
    end
    return has_limit and PARTS .. table.concat(words, ' ') or ''
  end
end

P.share_answer = P.share and P.share() or ''

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
  local kept = min(keep, subtract(own_hold, cost))
  local available = subtract(subtract(subtract(limit, cost_of_month), others), kept)
  if P.has_limits then
    P.each_limit(function(level, _, most, used, on_hold)
      local own = level == 0 and own_hold or P.own_hold
      local left = subtract(subtract(most, used), subtract(on_hold, own))
      available = min(available, subtract(left, kept))
    end)
  end
  if now >= ends or early then need, extra = 0, 0 end
  local more = min(add(add(keep - kept, refill), need), available)
  hold = kept + more + min(extra, floor((available - more) / SURPLUS_DIVISOR))
  if hold > 0 then
    held = add(others, hold)
    if next_expiry == 0 or expires < next_expiry then next_expiry = expires end
  elseif own_hold > 0 then
    if not scanned then hold_count = redis.call('HLEN', KEYS[5]) - 1 end
    held, hold_count = others, hold_count - 1
    if hold_count == 0 then held, next_expiry = 0, 0 end
  end

  if P.count > 0 then
    local names = {}
    for i, part in ipairs(P.drawn) do
      names[i] = part.name
      local total = P.total(part.name)
      total.held, total.changed = add(subtract(total.held, P.own_hold), hold), true
    end
    local field = PART_HOLD .. lease
    if hold > 0 then
      if P.next_expiry == 0 or expires < P.next_expiry then P.next_expiry = expires end
      P.changes = { NEXT_EXPIRY, text(P.next_expiry), field,
        text(hold) .. ' ' .. text(expires) .. ' ' .. table.concat(names, SEPARATOR) }
    elseif P.own_hold > 0 then
      P.deletions[#P.deletions + 1] = field
    end
  end

  -- Purchased credits that this period's holds may use are reserved, so that another period does
  -- not hold them too.
  if PURCHASED then
    local amount = min(subtract(held, DAYS and DAYS.all_left(book) or included_left(book, 0)),
      PURCHASED.available(book, now))
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
  end

  -- An entry that still settles something is not removed.
  leaves = forget and hold == 0 and delta == 0
  if leaves then
    local forgotten = add(lease_forgotten, max(settled, entry_settled))
    lease_forgotten = min(forgotten, lease_settled)
    book.forgotten, outcome = lease_forgotten, FORGOTTEN
  end
end

local answer
if outcome == RENEWED then
  answer = format('%s %d %d %d %d %d %d %d %d %d', outcome, now, hold, cost_of_month,
    held, limit, included_so_far, pay_as_you_go_limit < book.max_pay_as_you_go and 1 or 0,
    early and 1 or 0, now >= ends and 1 or 0)
  if P.has_limits then
    local least, tightest = subtract(subtract(limit, cost_of_month), held), ''
    P.each_limit(function(level, is_day, most, used, on_hold)
      local left = subtract(subtract(most, used), on_hold)
      local resets = is_day == 1 and (P.today + 1) * 86400000 or ends
      -- Of two that leave the same, the one that does so for longer.
      if left < least or (left == least and tightest ~= '' and resets > P.resets) then
        least, P.resets = left, resets
        tightest = format(' %d %d %d %d %d %d', level, is_day, most, used, on_hold,
          resets)
      end
    end)
    answer = answer .. tightest .. (P.count > 0 and P.months() or '')
  end
  answer = answer .. P.share_answer
  if P.rate then answer = answer .. PERMITS .. P.permits() end
else
  answer = without_effect(outcome)
end

local debits_elsewhere = elsewhere and (brings_lines or debited > 0)
local book_fields, current_fields, newly_moved = {}, {}, 0
if elsewhere then
  local noted = max(moved_here, moved_there)
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
    if DAYS then
      current.included_per_day = P.included_per_day
      DAYS.note_terms(current)
    end
  end
  local late = line_of(current, LATE_LINE)
  if brings_lines then
    for _, line in ipairs(lines) do
      for part = 1, 2 do late[part] = add(late[part], line[part]) end
    end
  end
  late[3] = add(late[3], debited)
  if PURCHASED then PURCHASED.match(current, grants_valid_at) end
  debit(current, debited, grants_valid_at)
end

-- From here on nothing fails. The leases are written before the book, so that a write that is torn
-- between them is seen in their sums.
if is_news then
  for _, grant in ipairs(spent) do
    redis.call('HSET', KEYS[2], grant.field, PURCHASED.grant_text(grant))
    delete_from_record(grant.field)
  end
end
write_record()

local function lease_sum_text()
  return format('%d %d %d %d', lease_settled, lease_forgotten, behind_until,
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
  local entry = format('%d %d %d', seq, max(batch, entry_batch),
    max(settled, entry_settled))
  redis.call('HSET', KEYS[4], lease, entry, SUM, lease_sums)
  if not known then redis.call('PEXPIREAT', KEYS[4], text(ends + SETTLEMENT_WINDOW)) end
elseif (found_lease[2] or known or behind_until > 0) and lease_sums ~= found_lease[2] then
  redis.call('HSET', KEYS[4], SUM, lease_sums)
  redis.call('PEXPIREAT', KEYS[4], text(ends + SETTLEMENT_WINDOW))
  delete_lease_sums_if_alone()
end

if P.count > 0 then
  -- The parts after the leases: what a write that is torn leaves out of them does not count there
  -- twice.
  for name, total in pairs(P.totals) do
    if total.changed then
      P.changes[#P.changes + 1] = PART_TOTAL .. name
      P.changes[#P.changes + 1] = text(total.used) .. ' ' .. text(total.held)
    end
  end
  in_chunks('HDEL', KEYS[7], P.deletions)
  in_chunks('HDEL', KEYS[6], P.day_deletions)
  in_chunks('HSET', KEYS[6], P.day_changes)
  in_chunks('HSET', KEYS[7], P.changes)
  for _, part in ipairs(P.drawn) do
    if part.is_new and #P.changes > 0 then
      redis.call('PEXPIREAT', KEYS[7], text(ends + BOOK_LIFETIME))
    end
  end
end

for _, gone in ipairs(expired) do redis.call('HDEL', KEYS[5], gone) end
if is_news and hold > 0 then
  redis.call('HSET', KEYS[5], lease, format('%d %d', hold, expires), SUM,
    format('%d %d', held, next_expiry))
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
  write_book(book, ends, terms_changed and P.keeps_terms, book_fields)
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
