-- Deliveries that have ended leave the index, wherever they are in it.
--   KEYS  due, leased, epoch
--   ARGV  run id, then ids (1 ... 500)
-- An id that is in neither set is no error: the index may have been lost, or another worker was faster.
-- Returns {1 or 0: the index belongs to this run of Redis}.
local due, leased, epoch = KEYS[1], KEYS[2], KEYS[3]
local run = ARGV[1]
local ids = {}
for i = 2, #ARGV do
    ids[i - 1] = ARGV[i]
end
redis.call('ZREM', leased, unpack(ids))
redis.call('ZREM', due, unpack(ids))
local same = redis.call('GETRANGE', epoch, 0, #run) == run .. ' '
return {same and 1 or 0}
