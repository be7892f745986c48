"""The histories of topics in Redis: what its keys hold, and scripts that change them.

Of a topic with the channel `{prefix.k.TOPIC}e` there are three keys in one slot:

    {prefix.k.TOPIC}m   hash: e epoch, s offset of the newest message, n messages and
                        k milliseconds that are kept, x when the stream expires, and of
                        each publisher (p…) its last number and the offset of that
    {prefix.k.TOPIC}s   stream: entry 0-OFFSET has g tag, t milliseconds, d envelope;
                        one more than can be read, whose tag can still be compared
    {prefix.k.TOPIC}k   sorted set: a user's keys, and the offsets of their messages

The hash outlives the others by a day, so that positions stay valid. Each script is
atomic, and the same on a replica once that has it. A transaction would not do: Redis
pushes what it publishes inside the answer to EXEC.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

__all__ = ["APPEND", "READ", "REMOVE", "Script"]


class Script(NamedTuple):
    """A script, and the name by which Redis calls it."""

    source: bytes
    digest: bytes


def _script(source: str) -> Script:
    encoded = source.strip().encode("ascii")
    # Not for security: it is the name that SCRIPT LOAD gives it.
    digest = hashlib.sha1(encoded, usedforsecurity=False).hexdigest()
    return Script(encoded, digest.encode())


#: All begin so. Before Redis 7 a script that asks for the time must say that its
#: effects are to be replicated, rather than itself.
_BEGINNING = """
if redis.replicate_commands then redis.replicate_commands() end
local META, STREAM, NAMES = KEYS[1], KEYS[2], KEYS[3]
local DAY = 86400000
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function text(number) return string.format('%.0f', number) end
local function entry_at(offset)
  local id = '0-' .. text(offset)
  return redis.call('XRANGE', STREAM, id, id)[1]
end
local function clear()
  -- Without a look: a script that has written is not stopped by a lack of memory.
  if redis.call('EXISTS', STREAM, NAMES) > 0 then redis.call('DEL', STREAM, NAMES) end
end
"""

#: Arguments: publisher, number, tag, messages and milliseconds that are kept (empty: no
#: limit), epoch if there is none, envelope, and the user's key if it has one. Returns:
#: position, whether it was there already, receivers.
APPEND = _script(
    _BEGINNING
    + """
local publisher, seq, tag = 'p' .. ARGV[1], tonumber(ARGV[2]), ARGV[3]
local channel = string.sub(META, 1, -2) .. 'e'
local size, keep, key = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[8]
local meta = redis.call('HMGET', META, 'e', 's', 'n', 'k', 'x', publisher)
local epoch, top = meta[1], tonumber(meta[2] or '')
if not epoch or not top then
  clear()
  epoch, top, meta = ARGV[6], 0, {}
end

local function position(offset, tag)
  return epoch .. ':' .. text(offset) .. ':' .. tag
end

-- The longest silent half is dropped when there are too many: seldom, so it is cheap.
local function limit_publishers()
  if meta[6] or redis.call('HLEN', META) <= 1000 then return end
  local fields, found = redis.call('HGETALL', META), {}
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 1) == 'p' then
      local at = tonumber(string.match(fields[i + 1], ' (%d+)$') or '') or 0
      found[#found + 1] = {at, fields[i]}
    end
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  for i = 1, math.floor(#found / 2) do redis.call('HDEL', META, found[i][2]) end
end

if meta[6] then
  local last, at = string.match(meta[6], '^(%d+) (%d+)$')
  if last and seq <= tonumber(last) then
    local entry = entry_at(tonumber(at))
    return {position(tonumber(at), entry and entry[2][2] or ''), 1, 0}
  end
end
if key then
  local at = tonumber(redis.call('ZSCORE', NAMES, key) or '')
  local entry = at and at > top - size and entry_at(at)
  if entry and (not keep or tonumber(entry[2][4]) >= now - keep) then
    redis.call('HSET', META, publisher, ARGV[2] .. ' ' .. text(at))
    limit_publishers()
    return {position(at, entry[2][2]), 1, 0}
  end
end

local offset = top + 1
local id = text(offset)
redis.call('XADD', STREAM, 'MAXLEN', size + 1, '0-' .. id,
  'g', tag, 't', text(now), 'd', ARGV[7])
local changes = {'s', id, publisher, ARGV[2] .. ' ' .. id}
local function change(field, value)
  changes[#changes + 1] = field
  changes[#changes + 1] = value
end
if not meta[1] then change('e', epoch) end
if meta[3] ~= ARGV[4] then change('n', ARGV[4]) end
if meta[4] ~= ARGV[5] then change('k', ARGV[5]) end

-- The stream expires up to a minute late, so that this is not changed each time.
local expiry, moved = tonumber(meta[5] or '') or 0, false
if keep and (expiry < now + keep or expiry > now + keep + 60000) then
  expiry, moved = now + keep + math.min(keep, 60000), true
  change('x', text(expiry))
end
redis.call('HSET', META, unpack(changes))
if key then
  redis.call('ZREMRANGEBYSCORE', NAMES, '-inf', text(offset - size))
  redis.call('ZADD', NAMES, id, key)
  if keep then redis.call('PEXPIREAT', NAMES, text(expiry)) end
end
if moved then
  redis.call('PEXPIREAT', STREAM, text(expiry))
  redis.call('PEXPIREAT', META, text(expiry + DAY))
elseif not keep and meta[5] then
  redis.call('HDEL', META, 'x')
  for i = 1, 3 do redis.call('PERSIST', KEYS[i]) end
end
limit_publishers()
local place = position(offset, tag)
return {place, 0, redis.call('PUBLISH', channel, place .. ' ' .. ARGV[7])}
"""
)

#: Arguments: epoch (empty: nothing is known), offset and tag (empty: not known) of the
#: position that is known, offset after which to read, messages at most, epoch if a new
#: one is needed. Returns: epoch, offset of the newest message, whether the position is
#: not of this history, and for each message offset, tag, milliseconds since then, and
#: envelope.
READ = _script(
    _BEGINNING
    + """
local known, offset, tag = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local after, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local meta = redis.call('HMGET', META, 'e', 's', 'n', 'k')
local epoch, top = meta[1], tonumber(meta[2] or '')
if not epoch or not top then
  clear()
  epoch, top, meta = ARGV[6], 0, {}
  redis.call('HSET', META, 'e', epoch, 's', '0', 'x', '0')
  redis.call('PEXPIRE', META, DAY)
end

local reset = 0
if known ~= '' then
  local fits = known == epoch and offset >= 0 and offset <= top
  if fits and offset > 0 and tag ~= '' then
    local entry = entry_at(offset)
    fits = not entry or entry[2][2] == tag
  end
  if not fits then
    reset, after = 1, 0
    if known == epoch then
      -- It has lost its last messages. Offsets mean others now: all are to notice.
      epoch = ARGV[6]
      redis.call('HSET', META, 'e', epoch)
    end
  end
end

local page = {epoch, top, reset}
local oldest = tonumber(meta[4] or '') and now - tonumber(meta[4]) or -1
local first = math.max(after, top - (tonumber(meta[3] or '') or 0)) + 1
local count, bytes, expired = 0, 0, false
while first <= top and count < limit and bytes < 1048576 do
  local entries = redis.call('XRANGE', STREAM, '0-' .. text(first), '+',
    'COUNT', math.min(limit - count, 32))
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    local at, fields = tonumber(string.sub(entry[1], 3)), entry[2]
    first = at + 1
    local time = tonumber(fields[4])
    if count == 0 and time < oldest then
      expired = true
    else
      count, bytes = count + 1, bytes + #fields[6]
      for _, value in ipairs({at, fields[2], math.max(now - time, 0), fields[6]}) do
        page[#page + 1] = value
      end
      if bytes >= 1048576 then break end
    end
  end
end
if expired then
  redis.call('XTRIM', STREAM, 'MAXLEN', top - (first - count) + 2)
end
return page
"""
)

#: No arguments. Returns: offset of the newest message, which stays as it is.
REMOVE = _script(
    _BEGINNING
    + """
if redis.call('EXISTS', STREAM) > 0 then redis.call('XTRIM', STREAM, 'MAXLEN', 0) end
if redis.call('EXISTS', NAMES) > 0 then redis.call('DEL', NAMES) end
return tonumber(redis.call('HMGET', META, 's')[1] or '0')
"""
)
