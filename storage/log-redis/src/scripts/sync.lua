-- Renews (or with lease 0 ends) a membership, drops the dead, notes who owns what; answers what is this member's.
-- KEYS: members, state. ARGV: member, lease in ms, partitions; and to commit: partition, epoch (-1: any), id.
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local lease = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if lease > 0 then
  -- Written only once a part of the lease is gone: a member that waits costs the server's disk next to nothing.
  local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if not ends or tonumber(ends) < now + lease * 0.8 then redis.call('ZADD', KEYS[1], now + lease, ARGV[1]) end
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(members)
local mine = {}
for p = 0, tonumber(ARGV[3]) - 1 do
  local owner = #members > 0 and members[p % #members + 1] or ''
  local known = redis.call('HMGET', KEYS[2], 'owner:' .. p, 'epoch:' .. p, 'offset:' .. p)
  local epoch = known[2] or '0'
  if owner ~= (known[1] or '') then
    epoch = tostring(redis.call('HINCRBY', KEYS[2], 'epoch:' .. p, 1))
    redis.call('HSET', KEYS[2], 'owner:' .. p, owner)
  end
  if owner == ARGV[1] then
    if ARGV[4] == tostring(p) and (ARGV[5] == '-1' or ARGV[5] == epoch) then
      redis.call('HSET', KEYS[2], 'offset:' .. p, ARGV[6])
      return {{'done', '', ''}}
    end
    table.insert(mine, {tostring(p), epoch, known[3] or ''})
  end
end
if ARGV[4] then return {} end
return mine
