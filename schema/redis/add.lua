-- A pending row was committed, new or for its next attempt: this is when it is due, whatever was known before.
--   KEYS  due, leased, epoch
--   ARGV  run id, channel for the hint, then pairs: id, delay in ms (1 ... 500 pairs)
-- Sets the id's score in due and takes it out of leased. If that makes a nearer next due time than there was, tells the
-- sleepers how many ms they may still sleep; a hint only, so a user who may not publish loses nothing but the hint.
-- Returns {1 or 0: the index belongs to this run of Redis, ms until the next one is due}.
local due, leased, epoch = KEYS[1], KEYS[2], KEYS[3]
local run, channel = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.ceil(time[2] / 1000) -- up: never early, not even by a rounded millisecond

local before = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
local scores, ids = {}, {}
for i = 3, #ARGV, 2 do
    scores[#scores + 1] = now + tonumber(ARGV[i + 1])
    scores[#scores + 1] = ARGV[i]
    ids[#ids + 1] = ARGV[i]
end
redis.call('ZADD', due, unpack(scores))
redis.call('ZREM', leased, unpack(ids))

local next = tonumber(redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2])
local wait = math.max(0, next - now)
-- Who sleeps looks again within a second anyway, and who has overdue work does not sleep.
if wait < 1000 and (not before or tonumber(before) > math.max(next, now)) then
    redis.pcall('PUBLISH', channel, string.format('%.0f', wait))
end
local same = redis.call('GETRANGE', epoch, 0, #run) == run .. ' '
return {same and 1 or 0, wait}
