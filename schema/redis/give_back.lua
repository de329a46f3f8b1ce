-- Claimed, but not started: somebody may have it later.
--   KEYS  due, leased, epoch
--   ARGV  run id, then pairs: id, delay in ms (1 ... 500 pairs)
-- Moves ids from leased to due. NX: if the lease ran out meanwhile, or the row got another time, that time stands.
-- An id that is in neither set becomes due too: a row without an entry would be late, an entry without a row is only a
-- claim for nothing.
-- Returns {1 or 0: the index belongs to this run of Redis, ms until the next one is due}.
local due, leased, epoch = KEYS[1], KEYS[2], KEYS[3]
local run = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.ceil(time[2] / 1000) -- up: never early, not even by a rounded millisecond
local scores, ids = {}, {}
for i = 2, #ARGV, 2 do
    scores[#scores + 1] = now + tonumber(ARGV[i + 1])
    scores[#scores + 1] = ARGV[i]
    ids[#ids + 1] = ARGV[i]
end
redis.call('ZADD', due, 'NX', unpack(scores))
redis.call('ZREM', leased, unpack(ids))

local next = tonumber(redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2])
local same = redis.call('GETRANGE', epoch, 0, #run) == run .. ' '
return {same and 1 or 0, math.max(0, next - now)}
