-- Start of every script that changes an account, after the clock: exact numbers, and the current
-- time. Rust writes the constants in capital letters into the text; see `script.rs`.
--
-- All amounts are whole nano-dollars up to 2^53 - 1, which a Lua number holds exactly; larger sums
-- are reduced to it. Numbers are written with `%d`, because `tostring` rounds to 14 digits.
-- Arithmetic makes numbers of digits in a quarter of the time that `tonumber` takes.

local tonumber, match, sub, format = tonumber, string.match, string.sub, string.format
local min, max, floor = math.min, math.max, math.floor

-- On a server of 32 bits, `%d` has no more than these.
if format('%d', MAX_AMOUNT) ~= MAX_AMOUNT_TEXT then
  local exact = format
  function format(form, ...) return exact((string.gsub(form, '%%d', '%%.0f')), ...) end
end

local now = clock()

-- The most arguments that a script gives to one command: `unpack` takes some thousands.
local CHUNK = 1000
