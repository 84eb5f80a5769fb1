-- Sums and differences of amounts, and checks of what is read, for every script that changes an
-- account.

local function add(x, y)
  local sum = x + y
  if sum > MAX_AMOUNT then return MAX_AMOUNT end
  return sum
end

local function subtract(x, y)
  if x > y then return x - y end
  return 0
end

local function text(x) return format('%d', x) end

-- True if what lasts until this moment still counts. A moment that is too far away was set when the
-- clock was ahead.
local function is_live(moment) return now < moment and moment <= now + MAX_HOLD_LIFETIME end

-- The first error in what was read.
local wrong

local function note_malformed(key, field, value, wanted)
  wrong = wrong or format('%s %s "%s": write %s', key, field, value, wanted)
end

local function malformed() return redis.error_reply(MALFORMED .. ' ' .. wrong) end
local function refused(why) return redis.error_reply(REFUSED .. ' ' .. why) end

-- What was read of a key, or nothing if it is of another type. Any other error is the server's.
local function checked(key, found)
  if type(found) == 'table' and found.err then
    if not string.find(found.err, 'WRONGTYPE', 1, true) then error(found.err, 0) end
    wrong = wrong or key .. ' is not a hash: restore or delete it (' .. found.err .. ')'
    return {}
  end
  return found
end

local function read(command, key, ...) return checked(key, redis.pcall(command, key, ...)) end

-- Parses the one to eight whole numbers that a pattern captures; zeros if there is no value.
-- `wanted` tells the operator what to write.
local function numbers(key, field, value, pattern, wanted)
  if not value then return 0, 0, 0, 0, 0, 0, 0, 0 end
  local a, b, c, d, e, f, g, h = match(value, pattern)
  if a then
    -- They are digits, of which arithmetic makes numbers.
    a, b, c, d = a + 0, (b or 0) + 0, (c or 0) + 0, (d or 0) + 0
    e, f, g, h = (e or 0) + 0, (f or 0) + 0, (g or 0) + 0, (h or 0) + 0
    if a <= MAX_AMOUNT and b <= MAX_AMOUNT and c <= MAX_AMOUNT and d <= MAX_AMOUNT
      and e <= MAX_AMOUNT and f <= MAX_AMOUNT and g <= MAX_AMOUNT and h <= MAX_AMOUNT then
      return a, b, c, d, e, f, g, h
    end
  end
  note_malformed(key, field, value, wanted)
  return 0, 0, 0, 0, 0, 0, 0, 0
end
