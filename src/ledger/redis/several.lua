-- Renews several leases of one server, one after another, as calls of their own would. Each has its
-- arguments as `renew.lua` has them, after how many keys and arguments it has.
--
-- Answers a list: what each renewal answered, which may be an error. A command that fails ends the
-- call: the error is that of all if it is about the server, or else each is sent again alone.

local answers, key, at = {}, 0, 0
while at < #ARGV do
  local last_key, first = key + ARGV[at + 1], at + 3
  local keys = { unpack(KEYS, key + 1, last_key) }
  key, at = last_key, first - 1 + ARGV[at + 2]
  local arguments = { unpack(ARGV, first, at) }
  found_record, found_lease, found_hold, found_book, wrong = nil, nil, nil, nil, nil
  answers[#answers + 1] = renew_plain(keys, arguments) or renew(keys, arguments)
end
return answers
