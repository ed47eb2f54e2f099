"""The Lua scripts of the index of media in Redis.

Keys, below the prefix in `ARGV[1]`:

    file:ID               hash    size, place
    files                 zset    ids by time of use
    files-bytes           number  of all files
    tenants:ID            set     who sees a file
    media:TENANT          zset    ids by time of use
    media-bytes:TENANT    number  of all files that a tenant sees
    shown:TENANT:ID       set     conversations that show a file
    shows:TENANT:ID       set     files that a conversation shows
"""

from __future__ import annotations

# What scripts about conversations call too: `P` is theirs.
PINNING = """
local function show(tenant, conversation, first, last)
    for at = first, last do
        redis.call('SADD', P .. 'shows:' .. tenant .. ':' .. conversation, ARGV[at])
        redis.call('SADD', P .. 'shown:' .. tenant .. ':' .. ARGV[at], conversation)
    end
end
local function hide(tenant, conversation)
    local shows = P .. 'shows:' .. tenant .. ':' .. conversation
    for _, media in ipairs(redis.call('SMEMBERS', shows)) do
        redis.call('SREM', P .. 'shown:' .. tenant .. ':' .. media, conversation)
    end
    redis.call('DEL', shows)
end
"""

_COMMON = """
local P = ARGV[1] .. ':'
local function seconds()
    local time = redis.call('TIME')
    return tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local function size_of(media) return tonumber(redis.call('HGET', P .. 'file:' .. media, 'size') or 0) end
local function pinned_by(tenant, media)
    return redis.call('EXISTS', P .. 'shown:' .. tenant .. ':' .. media) == 1
end
local function pinned(media)
    for _, tenant in ipairs(redis.call('SMEMBERS', P .. 'tenants:' .. media)) do
        if pinned_by(tenant, media) then return true end
    end
    return false
end
local function use(tenant, media)
    redis.call('ZADD', P .. 'media:' .. tenant, seconds(), media)
    redis.call('ZADD', P .. 'files', seconds(), media)
end
local function drop_file(media)
    local place = redis.call('HGET', P .. 'file:' .. media, 'place')
    redis.call('DECRBY', P .. 'files-bytes', size_of(media))
    redis.call('ZREM', P .. 'files', media)
    redis.call('DEL', P .. 'file:' .. media)
    return place
end
local function hide_from(tenant, media)
    if redis.call('ZREM', P .. 'media:' .. tenant, media) == 0 then return false end
    redis.call('DECRBY', P .. 'media-bytes:' .. tenant, size_of(media))
    redis.call('SREM', P .. 'tenants:' .. media, tenant)
    if redis.call('EXISTS', P .. 'tenants:' .. media) == 1 then return false end
    return drop_file(media)
end
local function hide_from_all(media)
    local place = false
    for _, tenant in ipairs(redis.call('SMEMBERS', P .. 'tenants:' .. media)) do
        place = hide_from(tenant, media) or place
    end
    return place
end
-- The least recently used of a zset that free so many bytes; nothing if there are not enough.
local function oldest(zset, bytes, newest, needed)
    local chosen, offset = {}, 0
    while bytes > 0 do
        local found = redis.call('ZRANGE', zset, offset, offset + 99)
        if #found == 0 then return nil end
        for _, media in ipairs(found) do
            if bytes > 0 and media ~= newest and not needed(media) then
                chosen[#chosen + 1] = media
                bytes = bytes - size_of(media)
            end
        end
        offset = offset + 100
    end
    return chosen
end
"""

# tenant, id, size, place or '', quota, tenant's quota or '' -> 'unknown', 'full', 'tenant full', or places
ADD = (
    _COMMON
    + """
local tenant, media, place = ARGV[2], ARGV[3], ARGV[5]
local known = redis.call('HGET', P .. 'file:' .. media, 'place')
if not known and place == '' then return 'unknown' end
local size = known and size_of(media) or tonumber(ARGV[4])
local seen = redis.call('ZSCORE', P .. 'media:' .. tenant, media)
local of_tenant = {}
if ARGV[7] ~= '' and not seen then
    local bytes = tonumber(redis.call('GET', P .. 'media-bytes:' .. tenant) or 0) + size - tonumber(ARGV[7])
    of_tenant = oldest(P .. 'media:' .. tenant, bytes, media,
        function(each) return pinned_by(tenant, each) end)
    if not of_tenant then return 'tenant full' end
end
local freed, going = 0, {}
for _, each in ipairs(of_tenant) do
    if redis.call('SCARD', P .. 'tenants:' .. each) == 1 then
        freed = freed + size_of(each)
        going[each] = true
    end
end
local of_all = {}
if not known then
    local bytes = tonumber(redis.call('GET', P .. 'files-bytes') or 0) - freed + size - tonumber(ARGV[6])
    of_all = oldest(P .. 'files', bytes, media, function(each) return going[each] or pinned(each) end)
    if not of_all then return 'full' end
end
local places = {known or place}
for _, each in ipairs(of_tenant) do
    local dropped = hide_from(tenant, each)
    if dropped then places[#places + 1] = dropped end
end
for _, each in ipairs(of_all) do
    local dropped = hide_from_all(each)
    if dropped then places[#places + 1] = dropped end
end
if not known then
    redis.call('HSET', P .. 'file:' .. media, 'size', size, 'place', place)
    redis.call('INCRBY', P .. 'files-bytes', size)
end
if not seen then
    redis.call('SADD', P .. 'tenants:' .. media, tenant)
    redis.call('INCRBY', P .. 'media-bytes:' .. tenant, size)
end
use(tenant, media)
return places
"""
)

# tenant, id -> whether it sees it
TOUCH = (
    _COMMON
    + """
if not redis.call('ZSCORE', P .. 'media:' .. ARGV[2], ARGV[3]) then return 0 end
use(ARGV[2], ARGV[3])
return 1
"""
)

# id -> false or the place
PLACE = (
    _COMMON
    + """
for _, tenant in ipairs(redis.call('SMEMBERS', P .. 'tenants:' .. ARGV[2])) do use(tenant, ARGV[2]) end
return redis.call('HGET', P .. 'file:' .. ARGV[2], 'place')
"""
)

# id -> false or the place
FIND = "return redis.call('HGET', ARGV[1] .. ':file:' .. ARGV[2], 'place')"

# tenant, id -> false or the place to delete
FORGET = _COMMON + "return not pinned_by(ARGV[2], ARGV[3]) and hide_from(ARGV[2], ARGV[3])"

# id, place
LOST = (
    _COMMON
    + """
if redis.call('HGET', P .. 'file:' .. ARGV[2], 'place') == ARGV[3] then hide_from_all(ARGV[2]) end
"""
)

# seconds -> places to delete, of at most 1000 files looked at
SWEEP = (
    _COMMON
    + """
local places = {}
for _, media in ipairs(redis.call('ZRANGEBYSCORE', P .. 'files', '-inf', seconds() - tonumber(ARGV[2]),
        'LIMIT', 0, 1000)) do
    if pinned(media) then
        redis.call('ZADD', P .. 'files', seconds(), media)
    else
        places[#places + 1] = hide_from_all(media)
    end
end
return places
"""
)

USED = "return tonumber(redis.call('GET', ARGV[1] .. ':files-bytes') or 0)"
