-- Renews several leases of one server, one after another, as calls of their own would. Before the
-- arguments of each, which are those of `renew.lua`, are two numbers: of its keys and of its
-- arguments.
--
-- Answers a list: what each renewal answered, which may be an error. After a command that fails the
-- list ends; if it is the first, the error is the answer. What has no answer is sent again alone.

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
  if not is_done then
    if #answers == 0 then error(answer, 0) end
    return answers
  end
  answers[#answers + 1] = answer
end
return answers
