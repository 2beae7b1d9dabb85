-- Ids of the form ms-seq. Numbers here are doubles: exact for ids that fit an offset, and close enough to see that others do not.
local FAR, LARGE = 4102444800000, 2097151
local function parts(id) local ms, seq = string.match(id, '(%d+)-(%d+)'); return tonumber(ms), tonumber(seq) end
local function fits(id) local ms, seq = parts(id); return ms < FAR and seq <= LARGE end
-- The next id after (ms, seq): of now where the clock is ahead, else the one after.
local function following(ms, seq, now)
  if now > ms then return now, 0 end
  if seq < LARGE then return ms, seq + 1 end
  return ms + 1, 0
end
-- A clock beyond all ids counts as none.
local function now_ms()
  local now = redis.call('TIME')
  now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
  return now < FAR - 86400000 and now or 0
end
-- Asked before anything is written: an error in the middle would leave the first half.
local function full(ms, n) return ms + n / LARGE + 2 >= FAR end
local FULL = 'FLYWHEELFULL an entry of another program has an id of the end of the year 2099'
local function id_of(ms, seq) return string.format('%.0f-%.0f', ms, seq) end
-- The later of (ms, seq) and `id`, where there is one.
local function later(ms, seq, id)
  if not id then return ms, seq end
  local other_ms, other_seq = parts(id)
  if other_ms > ms or (other_ms == ms and other_seq > seq) then return other_ms, other_seq end
  return ms, seq
end
