-- The last page is in: the index is complete again, in this run of Redis. Returns the lock.
--   KEYS  epoch, lock
--   ARGV  run id, token, begin-ms (from rebuild_begin)
-- Returns {1}; {0}: the lock is lost, the index is not declared complete.
local epoch, lock = KEYS[1], KEYS[2]
local run, token, begun = ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', lock) ~= token then
    return {0}
end
redis.call('SET', epoch, run .. ' ' .. begun)
redis.call('DEL', lock)
return {1}
