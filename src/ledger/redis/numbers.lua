-- What every script that changes an account begins with: numbers, the ledger's clock, and what is
-- read. Rust writes the constants in capital letters into the text; see `script.rs`.
--
-- All amounts are whole nano-dollars up to 2^53 - 1, which a Lua number holds exactly; larger sums
-- are reduced to it. Numbers are written with `%d`, because `tostring` rounds to 14 digits.
-- Arithmetic makes numbers of digits in a quarter of the time that `tonumber` takes.

local tonumber, match, format, min, max =
  tonumber, string.match, string.format, math.min, math.max

-- On a server of 32 bits, `%d` has no more than these.
if format('%d', MAX_AMOUNT) ~= MAX_AMOUNT_TEXT then
  local exact = format
  function format(form, ...) return exact((string.gsub(form, '%%d', '%%.0f')), ...) end
end

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

local now = clock()

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

local function read(command, key, ...)
  local found = redis.pcall(command, key, ...)
  if type(found) == 'table' and found.err then
    wrong = wrong or key .. ' is not a hash: restore or delete it (' .. found.err .. ')'
    return {}
  end
  return found
end

-- Parses whole numbers, up to eight, as one of the patterns NUMBERS_1 to NUMBERS_8 has them; zeros
-- if there is no value. `wanted` tells the operator what to write.
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
