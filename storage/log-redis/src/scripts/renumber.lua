-- KEYS: stream, meta. ARGV: the first entry whose id fits no offset, or '' for those at the stream's end; 'copy' to do it
-- the way of servers that never lower a stream's newest id. Answers how many entries have another id now.
--
-- That entry and all after it are written again under ids that fit, in their order, none doubled and none lost. No reader
-- of ours has seen them: it would have met the first. Through a spare stream and in pieces: memory stays bounded.
local stream, spare, first = KEYS[1], KEYS[1] .. ':spare', ARGV[1]
redis.call('DEL', spare)

if first == '' then
  local upto, done = '+', false
  while not done do
    local piece = redis.call('XREVRANGE', stream, upto, '-', 'COUNT', 500)
    done = #piece < 500
    for _, entry in ipairs(piece) do
      if fits(entry[1]) then done = true; break end
      first = entry[1]
    end
    if #piece > 0 then upto = '(' .. piece[#piece][1] end
  end
elseif #redis.call('XRANGE', stream, first, first) == 0 or fits(first) then
  return 0
end

local ms, seq = later(0, 0, redis.call('HGET', KEYS[2], 'trimmed'))
local before = redis.call('XREVRANGE', stream, first == '' and '+' or ('(' .. first), '-', 'COUNT', 1)
if #before > 0 and fits(before[1][1]) then ms, seq = later(ms, seq, before[1][1]) end
if full(ms, 1e9) then return redis.error_reply(FULL) end
if ms == 0 and seq == 0 then seq = 1 end

-- May the newest id of a stream be lowered here, and the newest deleted one with it? Asked before anything is written.
local function lower(key, id, added)
  local answer = redis.pcall('XSETID', key, id, 'ENTRIESADDED', added, 'MAXDELETEDID', id)
  -- Before 7.0 a stream does not know what was deleted.
  if answer.err and string.find(string.lower(answer.err), 'number of arguments', 1, true) then
    answer = redis.pcall('XSETID', key, id)
  end
  return answer.err == nil
end
redis.call('XADD', spare, '2-0', 'x', '')
redis.call('XDEL', spare, '2-0')
local copy = ARGV[2] == 'copy' or not lower(spare, '1-0', 1)
redis.call('DEL', spare)

local function add(to, id, fields)
  -- More would not fit Lua's stack.
  if #fields > 4000 then
    local kept = {}
    for i = 1, #fields, 2 do
      if (fields[i] == 'key' or fields[i] == 'event') and #kept < 4 then
        kept[#kept + 1] = fields[i]
        kept[#kept + 1] = fields[i + 1]
      end
    end
    if #kept == 0 then kept = { 'event', '' } end
    fields = kept
  end
  redis.call('XADD', to, id, unpack(fields))
end
local function each(of, from, act)
  local piece
  repeat
    piece = redis.call('XRANGE', of, from, '+', 'COUNT', 500)
    for _, entry in ipairs(piece) do act(entry[1], entry[2]) end
    if #piece > 0 then from = '(' .. piece[#piece][1] end
  until #piece < 500
end

local n, now, odd = 0, now_ms(), false
local function renumber(id, fields)
  ms, seq = following(ms, seq, now)
  now, n = 0, n + 1
  add(spare, id_of(ms, seq), fields)
end
if copy then
  each(stream, '-', function(id, fields)
    odd = odd or id == first
    if odd then renumber(id, fields) else add(spare, id, fields) end
  end)
  redis.call('DEL', stream)
  if redis.call('EXISTS', spare) == 1 then redis.call('RENAME', spare, stream) end
else
  if first ~= '' then
    each(stream, first, function(id, fields)
      renumber(id, fields)
      redis.call('XDEL', stream, id)
    end)
  end
  -- The block of memory at the end still has the large ids, marked as deleted, and a trim would stop there: what else is
  -- in it is written again too, so that the block goes.
  local function info()
    local all, found = redis.call('XINFO', 'STREAM', stream), {}
    for i = 1, #all, 2 do found[all[i]] = all[i + 1] end
    return found
  end
  local blocks, moved = info()['radix-tree-keys'], {}
  repeat
    local piece = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 50)
    for _, entry in ipairs(piece) do
      moved[#moved + 1] = entry
      redis.call('XDEL', stream, entry[1])
    end
  until #piece < 50 or info()['radix-tree-keys'] < blocks
  local top = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  if #top == 0 then
    redis.call('DEL', stream)
  else
    lower(stream, top[1][1], info()['entries-added'] or 1)
  end
  for i = #moved, 1, -1 do add(stream, moved[i][1], moved[i][2]) end
  if n > 0 then each(spare, '-', function(id, fields) add(stream, id, fields) end) end
  redis.call('DEL', spare)
end
return n
