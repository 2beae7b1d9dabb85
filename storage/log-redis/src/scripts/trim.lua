-- KEYS: stream, meta. ARGV: the newest id to remove. Answers how many went, or nothing and the id that fits no offset.
-- The watermark is what was really removed, so that nobody is told of a loss that was none.
local last = redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', 1)
if #last == 0 then return {0, ''} end
local id = last[1][1]
if not fits(id) then return {false, id} end
local ms, seq = parts(id)
redis.call('HSET', KEYS[2], 'trimmed', id)
return {redis.call('XTRIM', KEYS[1], 'MINID', '=', id_of(ms, seq + 1)), ''}
