"""The Lua scripts of the Redis store. Each is one transaction, and does nothing new when it is run again.

Keys, below the prefix in `ARGV[1]`:

    conversation:TENANT:ID   hash   version, title, opening, created, updated, ttl, expires
    turns:TENANT:ID          list   one turn each
    keys:TENANT:ID           set    the claims of its idempotency keys
    changed:TENANT           zset   ids by time of change
    expiry                   zset   "ID TENANT" by time of expiry
    claim:SCOPE:KEY          hash   fingerprint, turn, answer, expires

Those of media are in `redis_media_scripts`.
"""

from __future__ import annotations

from gateway.storage.redis_media_scripts import PINNING

# What other scripts call. Numbers travel as text: Lua would cut them to 14 digits.
_COMMON = (
    """
local P = ARGV[1] .. ':'
"""
    + PINNING
    + """
local function name(kind, tenant, id) return P .. kind .. ':' .. tenant .. ':' .. id end
local function alive(tenant, id, now)
    local found = redis.call('HMGET', name('conversation', tenant, id), 'version', 'expires')
    return found[1] and (found[2] == '' or tonumber(found[2]) > tonumber(now)) and tonumber(found[1])
end
local function changed(tenant, id, updated, expires)
    redis.call('HSET', name('conversation', tenant, id), 'updated', updated, 'expires', expires)
    redis.call('ZADD', P .. 'changed:' .. tenant, updated, id)
    if expires == '' then
        redis.call('ZREM', P .. 'expiry', id .. ' ' .. tenant)
    else
        redis.call('ZADD', P .. 'expiry', expires, id .. ' ' .. tenant)
    end
end
local function head(tenant, id)
    local fields = redis.call('HMGET', name('conversation', tenant, id),
        'version', 'title', 'created', 'updated', 'ttl')
    return {id, fields[1], fields[2], fields[3], fields[4], fields[5]}
end
local function drop(tenant, id)
    for _, claim in ipairs(redis.call('SMEMBERS', name('keys', tenant, id))) do redis.call('DEL', claim) end
    redis.call('ZREM', P .. 'changed:' .. tenant, id)
    redis.call('ZREM', P .. 'expiry', id .. ' ' .. tenant)
    hide(tenant, id)
    redis.call('DEL', name('turns', tenant, id), name('keys', tenant, id))
    return redis.call('DEL', name('conversation', tenant, id))
end
local function seconds()
    local time = redis.call('TIME')
    return tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local function hold(claim, turn, answer)
    local found = redis.call('HMGET', claim, 'turn', 'answer')
    if found[1] ~= turn or (found[2] and found[2] ~= answer) then return false end
    return true
end
local function settle(claim, answer, kept)
    redis.call('HSET', claim, 'answer', answer, 'expires', seconds() + tonumber(kept))
    redis.call('PEXPIRE', claim, math.ceil(tonumber(kept) * 1000))
end
"""
)

# tenant, id, version, title, opening, created, updated, ttl, expires, most of a tenant or '', number of media
# ids, these, turns... -> false where there are as many
INSERT = (
    _COMMON
    + """
local tenant, id, most = ARGV[2], ARGV[3], tonumber(ARGV[11])
local known = redis.call('EXISTS', name('conversation', tenant, id)) == 1
if most and not known and redis.call('ZCARD', P .. 'changed:' .. tenant) >= most then return false end
redis.call('HSET', name('conversation', tenant, id), 'version', ARGV[4], 'title', ARGV[5],
    'opening', ARGV[6], 'created', ARGV[7], 'ttl', ARGV[9])
redis.call('DEL', name('turns', tenant, id))
local shown = tonumber(ARGV[12])
show(tenant, id, 13, 12 + shown)
for number = 13 + shown, #ARGV do redis.call('RPUSH', name('turns', tenant, id), ARGV[number]) end
changed(tenant, id, ARGV[8], ARGV[10])
return true
"""
)

# tenant, id, now -> false, or the head, the opening and the turns
GET = (
    _COMMON
    + """
local tenant, id = ARGV[2], ARGV[3]
if not alive(tenant, id, ARGV[4]) then return false end
return {head(tenant, id), redis.call('HGET', name('conversation', tenant, id), 'opening'),
    redis.call('LRANGE', name('turns', tenant, id), 0, -1)}
"""
)

# tenant, now, updated and id of the last one seen, how many -> heads
LIST = (
    _COMMON
    + """
local tenant, now, before, last, wanted = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local heads, offset = {}, 0
while #heads < wanted do
    local found = redis.call('ZREVRANGEBYSCORE', P .. 'changed:' .. tenant, before, '-inf', 'WITHSCORES',
        'LIMIT', offset, 100)
    if #found == 0 then break end
    for at = 1, #found, 2 do
        local seen = last ~= '' and tonumber(found[at + 1]) == tonumber(before) and found[at] >= last
        if not seen and #heads < wanted and alive(tenant, found[at], now) then
            heads[#heads + 1] = head(tenant, found[at])
        end
    end
    offset = offset + 100
end
return heads
"""
)

# tenant, id, now, title or its absence, ttl or its absence ('' for each, after a flag) -> false or the head
UPDATE = (
    _COMMON
    + """
local tenant, id, now = ARGV[2], ARGV[3], ARGV[4]
if not alive(tenant, id, now) then return false end
local conversation = name('conversation', tenant, id)
if ARGV[5] == '1' then redis.call('HSET', conversation, 'title', ARGV[6]) end
if ARGV[7] ~= '' then redis.call('HSET', conversation, 'ttl', ARGV[7]) end
local ttl = redis.call('HGET', conversation, 'ttl')
changed(tenant, id, now, ttl == '' and '' or string.format('%.6f', tonumber(now) + tonumber(ttl)))
return head(tenant, id)
"""
)

# tenant, id, now, version, turn, claim or '', its turn, answer, seconds to keep it, media ids...
# -> false, 'lost', {version there is}, or the new version
APPEND = (
    _COMMON
    + """
local tenant, id, now, version = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local turns, conversation = name('turns', tenant, id), name('conversation', tenant, id)
local current = alive(tenant, id, now)
if not current then return false end
if current == version + 1 and redis.call('LINDEX', turns, version) == ARGV[6] then return current end
if current ~= version then return {current} end
if ARGV[7] ~= '' then
    if not hold(ARGV[7], ARGV[8], ARGV[9]) then return 'lost' end
    settle(ARGV[7], ARGV[9], ARGV[10])
end
redis.call('RPUSH', turns, ARGV[6])
show(tenant, id, 11, #ARGV)
redis.call('HSET', conversation, 'version', version + 1)
local ttl = redis.call('HGET', conversation, 'ttl')
changed(tenant, id, now, ttl == '' and '' or string.format('%.6f', tonumber(now) + tonumber(ttl)))
return version + 1
"""
)

# tenant, id, now -> whether it was there
DELETE = (
    _COMMON
    + """
if not alive(ARGV[2], ARGV[3], ARGV[4]) then return 0 end
return drop(ARGV[2], ARGV[3])
"""
)

# now -> how many were dropped, at most 100
SWEEP = (
    _COMMON
    + """
local gone = redis.call('ZRANGEBYSCORE', P .. 'expiry', '-inf', ARGV[2], 'LIMIT', 0, 100)
for _, member in ipairs(gone) do
    local space = string.find(member, ' ', 1, true)
    drop(string.sub(member, space + 1), string.sub(member, 1, space - 1))
end
return #gone
"""
)

# claim, the set it belongs to or '', fingerprint, turn, lease, seconds to keep an unfinished one
# -> 'claimed', 'taken', {turn}, or {turn, answer}
CLAIM = (
    _COMMON
    + """
local claim, fingerprint, turn = ARGV[2], ARGV[4], ARGV[5]
local found = redis.call('HMGET', claim, 'fingerprint', 'turn', 'answer', 'expires')
if found[1] and tonumber(found[4]) > seconds() and not (found[2] == turn and not found[3]) then
    if found[1] ~= fingerprint then return 'taken' end
    if found[3] then return {found[2], found[3]} end
    return {found[2]}
end
redis.call('DEL', claim)
redis.call('HSET', claim, 'fingerprint', fingerprint, 'turn', turn, 'expires', seconds() + tonumber(ARGV[6]))
redis.call('PEXPIRE', claim, math.ceil(tonumber(ARGV[7]) * 1000))
if ARGV[3] ~= '' then
    redis.call('SADD', ARGV[3], claim)
    redis.call('PEXPIRE', ARGV[3], math.ceil(tonumber(ARGV[7]) * 2000))
end
return 'claimed'
"""
)

# claim, turn, lease -> whether it is held
RENEW = (
    _COMMON
    + """
if not hold(ARGV[2], ARGV[3], false) then return 0 end
redis.call('HSET', ARGV[2], 'expires', seconds() + tonumber(ARGV[4]))
return 1
"""
)

# claim, turn, answer, seconds to keep it -> whether it was held
ANSWER = (
    _COMMON
    + """
if not hold(ARGV[2], ARGV[3], ARGV[4]) then return 0 end
settle(ARGV[2], ARGV[4], ARGV[5])
return 1
"""
)

# claim, turn
RELEASE = (
    _COMMON
    + """
if hold(ARGV[2], ARGV[3], false) then redis.call('DEL', ARGV[2]) end
"""
)
