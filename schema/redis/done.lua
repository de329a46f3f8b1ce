-- Deliveries that have ended leave the leases. Not `due`: what is there is either a later appointment of the same delivery (somebody asked
-- for it again meanwhile), or costs the next claim a look.
--   KEYS  leased, epoch
--   ARGV  run id, then ids (1 ... 500)
-- An id that is not there is no error: the index may have been lost, or another worker was faster.
-- Returns {1 or 0: the index belongs to this run of Redis}.
local leased, epoch = KEYS[1], KEYS[2]
local run = ARGV[1]
local ids = {}
for i = 2, #ARGV do
    ids[i - 1] = ARGV[i]
end
redis.call('ZREM', leased, unpack(ids))
local same = redis.call('GETRANGE', epoch, 0, #run) == run .. ' '
return {same and 1 or 0}
