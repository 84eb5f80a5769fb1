-- Renews several leases of one server, one after another, as calls of their own would. Each has its
-- arguments as `renew.lua` has them, after how many keys and arguments it has.
--
-- Answers a list: what each renewal answered, or the error of one that failed.

local function renew_either(keys, arguments)
  return renew_plain(keys, arguments) or renew(keys, arguments)
end

local answers, key, at = {}, 0, 0
while at < #ARGV do
  local last_key, first = key + ARGV[at + 1], at + 3
  local keys = { unpack(KEYS, key + 1, last_key) }
  key, at = last_key, first - 1 + ARGV[at + 2]
  local arguments = { unpack(ARGV, first, at) }
  found_record, found_lease, found_hold, found_book, wrong = nil, nil, nil, nil, nil
  local is_done, answer = pcall(renew_either, keys, arguments)
  if not is_done and type(answer) ~= 'table' then
    answer = redis.error_reply('ERR ' .. tostring(answer))
  end
  answers[#answers + 1] = answer
end
return answers
