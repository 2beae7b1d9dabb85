-- KEYS: stream, meta. ARGV: key, value, key, value, …  Answers the last id; nothing where the newest id fits no offset.
-- Ids rise whatever the server's clock does: the newest id, or the trimmed one of a stream that was deleted, is the floor.
local ms, seq = 0, 0
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then
  if not string.find(info.err, 'no such key', 1, true) then return info end
else
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      if not fits(info[i + 1]) then return false end
      ms, seq = parts(info[i + 1])
    end
  end
end
ms, seq = later(ms, seq, redis.call('HGET', KEYS[2], 'trimmed'))
if full(ms, #ARGV / 2) then return redis.error_reply(FULL) end
local now, id = now_ms(), nil
for i = 1, #ARGV, 2 do
  ms, seq = following(ms, seq, now)
  now = 0
  id = id_of(ms, seq)
  redis.call('XADD', KEYS[1], id, 'key', ARGV[i], 'event', ARGV[i + 1])
end
return id
