-- Renews a lease if nothing special is involved, as in most renewals. It has the keys, arguments
-- and outcome of `renew.lua`, and takes less time: it is one function, and it copies text that does
-- not change. It leaves a renewal to `renew.lua`, with what it has read, if
--
-- * the record has another field than seats, spending limit and closed month;
-- * the renewal has parts, permits, a share of concurrent requests, or a limit or credits of a day;
--   is not of the current month; is late or repeated; says goodbye for an unknown lease;
-- * a line is named twice, or would exceed `max_lines`, or the lines cost more than is newly
--   settled, or there are too many for one command;
-- * the terms changed, a hold may have expired, the sums differ, or amounts are near the largest;
-- * a value cannot be read. Only `renew.lua` reads the line `other`.
--
-- It comes after `head.lua` and before `numbers.lua`. Whoever changes it changes `renew.lua` and
-- `Book::renew`: tests compare the three.

-- What was read of the keys, for `renew.lua`; nil of those that were not read.
local found_record, found_lease, found_hold, found_book

local read_packed = struct.unpack

-- Answers a renewal. If it is of another kind, answers nothing, and has written nothing.
local function renew_plain(keys, arguments)
  if arguments[3] ~= '0' or keys[6] then return end
  local lease = arguments[1]
  local seq, batch, settled, _, keep, refill, need, extra, included_each, per_seat,
    max_pay_as_you_go, stated_at, ttl, forget, not_after, begins, ends, _, _, max_lines =
    read_packed(RENEWAL_NUMBERS, arguments[4])
  if now > not_after or now >= ends or now + CLOCK_SKEW < begins then return end

  local pcall, call = redis.pcall, redis.call
  found_record = pcall('HGETALL', keys[1])
  local seats, spending_limit = '1', MAX_AMOUNT
  for i = 1, #found_record, 2 do
    local field, value = found_record[i], found_record[i + 1]
    if field == SEATS and match(value, '^[1-9]%d*$') and value + 0 <= MAX_SEATS then
      seats = value
    elseif field == LIMIT and match(value, NUMBERS_1) and value + 0 <= MAX_AMOUNT then
      spending_limit = value + 0
    elseif field ~= CLOSED or not match(value, '^%d%d%d%d%-%d%d$') then
      return
    end
  end
  local names = {}
  for i = FIRST_PART, #arguments, 2 do names[#names + 1] = arguments[i] end
  found_lease = pcall('HMGET', keys[4], lease, SUM)
  found_hold = pcall('HMGET', keys[5], lease, SUM)
  found_book = pcall('HMGET', keys[3], TOTAL, TERMS, unpack(names))
  local entry, lease_sum = found_lease[1], found_lease[2]
  local own, hold_sum = found_hold[1], found_hold[2]
  local total, terms = found_book[1], found_book[2]
  if found_record.err or found_lease.err or found_hold.err or found_book.err
    or forget == 1 and not entry then
    return
  end

  -- The terms are those of the book.
  local terms_text = arguments[2] .. ' ' .. seats .. ' '
  local book_stated_at = 0
  if terms then
    book_stated_at = sub(terms, 1, #terms_text) == terms_text
      and match(terms, NUMBERS_1, #terms_text + 1)
    if not book_stated_at or book_stated_at * 1000 > now then return end
  end

  -- Nothing was purchased, and the book and the leases agree.
  local used, purchased_used, charged, recovered, refunded, settled_in_all, forgotten, line_count =
    match(total or '0 0 0 0 0 0 0 0', NUMBERS_8)
  local lease_settled, lease_forgotten, behind_until, moved =
    match(lease_sum or '0 0 0 0', NUMBERS_4)
  if not (used and lease_settled) or purchased_used ~= '0' or settled_in_all ~= lease_settled
    or forgotten ~= lease_forgotten or behind_until ~= '0' then
    return
  end
  local entry_seq, entry_batch, entry_settled = match(entry or '0 0 0', NUMBERS_3)
  local own_hold, own_expires = match(own or '0 0', NUMBERS_2)
  local held, next_expiry = match(hold_sum or '0 0', NUMBERS_2)
  if not (entry_seq and own_hold and held) then return end

  -- If all these amounts together are less than the largest one, so are sums of them. Sums with
  -- terms are limited where they are made.
  used, settled_in_all, refunded = used + 0, settled_in_all + 0, refunded + 0
  entry_batch, entry_settled = entry_batch + 0, entry_settled + 0
  own_hold, held, next_expiry = own_hold + 0, held + 0, next_expiry + 0
  if seq <= entry_seq + 0 or settled < entry_settled
    or next_expiry > now + MAX_HOLD_LIFETIME or next_expiry <= now and next_expiry + held > 0
    or used + charged + recovered + refunded + settled_in_all + forgotten + line_count + moved
      + seq + batch + entry_batch + settled + own_hold + own_expires + held >= MAX_AMOUNT then
    return
  end

  -- The lines, which count only if the batch is news. `changes` begins with the book's totals.
  local is_batch_news, seen = batch > entry_batch, names[2] and {}
  local cost, lines_cost, changes, last = settled - entry_settled, 0, { TOTAL, '', '', '' }, 2
  for line = 1, #names do
    local name, value = names[line], found_book[line + 2]
    local requests, micros, line_cost = match(value or '0 0 0', NUMBERS_3)
    if not requests or seen and seen[name] then return end
    local more_requests, more_micros, more_cost =
      read_packed(LINE_NUMBERS, arguments[FIRST_PART + 2 * line - 1])
    requests, micros, line_cost =
      requests + more_requests, micros + more_micros, line_cost + more_cost
    if requests + micros + line_cost > MAX_AMOUNT then return end
    if seen then seen[name] = true end
    if is_batch_news then
      if not value then line_count = line_count + 1 end
      lines_cost = lines_cost + more_cost
      changes[last + 1], changes[last + 2] = name, format('%d %d %d', requests, micros, line_cost)
      last = last + 2
    end
  end
  if is_batch_news then entry_batch = batch end
  if line_count + 0 > max_lines then return end
  if lines_cost > cost or last > CHUNK then return end

  -- Debits the cost: of the included credits first, then as pay-as-you-go.
  local included = per_seat == 1 and min(MAX_AMOUNT, included_each * seats) or included_each
  local pay_as_you_go_limit = min(max_pay_as_you_go, spending_limit)
  local net = max(used - refunded, 0)
  local rest = cost - max(included - net, 0)
  if rest > 0 then
    local pay_as_you_go = min(charged, max(net - included, 0))
    local chargeable = max(pay_as_you_go_limit - pay_as_you_go, 0)
    charged = format('%d', charged + min(rest, chargeable))
  end
  used, net = used + cost, max(used + cost - refunded, 0)
  if cost > lines_cost then recovered = format('%d', recovered + cost - lines_cost) end

  -- The hold.
  local limit = min(MAX_AMOUNT, included + pay_as_you_go_limit)
  local others = max(held - own_hold, 0)
  local kept = min(keep, max(own_hold - cost, 0))
  local available = max(limit - net - others - kept, 0)
  local more = min(keep - kept + refill + need, available)
  local hold = kept + more + min(extra, floor((available - more) / SURPLUS_DIVISOR))
  local expires, others_hold = now + ttl, true
  if hold > 0 then
    held = others + hold
    if next_expiry == 0 or expires < next_expiry then next_expiry = expires end
  elseif own_hold > 0 then
    others_hold = call('HLEN', keys[5]) > 2
    held = others_hold and others or 0
  end

  -- An entry that still settles something is not removed.
  local leaves = forget == 1 and hold == 0 and cost == 0
  if leaves then forgotten = format('%d', min(forgotten + settled, settled_in_all)) end
  local sums = format('%d', settled_in_all + cost) .. ' ' .. forgotten
  changes[2] = format('%d 0 ', used) .. charged .. ' ' .. recovered .. format(' %d ', refunded)
    .. sums .. format(' %d', line_count)
  stated_at = min(stated_at, floor(now / 1000))
  if not terms or stated_at >= book_stated_at + NOTE_SAME_TERMS_EVERY then
    changes[last + 1], changes[last + 2] = TERMS, terms_text .. format('%d', stated_at)
    last = last + 2
  end

  -- As in `renew.lua`, the leases are written before the book.
  if leaves then
    call('HSET', keys[4], SUM, sums .. ' 0 ' .. moved)
    call('HDEL', keys[4], lease)
    if call('HLEN', keys[4]) == 1 then call('DEL', keys[4]) end
  else
    call('HSET', keys[4], lease, format('%d %d %d', seq, entry_batch, settled),
      SUM, sums .. ' 0 ' .. moved)
    if not entry then call('PEXPIREAT', keys[4], format('%d', ends + SETTLEMENT_WINDOW)) end
  end
  if hold > 0 then
    call('HSET', keys[5], lease, format('%d %d', hold, expires),
      SUM, format('%d %d', held, next_expiry))
    if not hold_sum then call('PEXPIREAT', keys[5], format('%d', ends + SETTLEMENT_WINDOW)) end
  elseif not others_hold then
    call('DEL', keys[5])
  elseif own_hold > 0 then
    call('HDEL', keys[5], lease)
    call('HSET', keys[5], SUM, format('%d %d', held, next_expiry))
  end
  call('HSET', keys[3], unpack(changes, 1, last))
  if not total then call('PEXPIREAT', keys[3], format('%d', ends + BOOK_LIFETIME)) end
  if leaves then return format('%s %d', FORGOTTEN, now) end
  return format('%s %d %d %d %d %d %d', RENEWED, now, hold, net, held, limit, included)
    .. (pay_as_you_go_limit < max_pay_as_you_go and ' 1 0 0' or ' 0 0 0')
end
