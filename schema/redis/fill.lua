-- Rows of PostgreSQL that should be in the index: adds those that are in neither set, and moves forward those that are due earlier than
-- the index says (somebody asked for a delivery that waited, and the hint was lost). One that is claimed too early costs a look.
--   KEYS  due, leased, lock
--   ARGV  token of a rebuild or "" (reconcile), lock in ms, then pairs: id, delay in ms (0 ... 500 pairs)
-- A rebuild must still hold the lock, and keeps it by this: a lock that is gone means that Redis was wiped again, with the
-- pages added so far, or that this worker was too slow and another one took over.
-- Returns {-1}: the lock is lost, nothing was added; {number of ids added}.
local due, leased, lock = KEYS[1], KEYS[2], KEYS[3]
local token, lock_ms = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.ceil(time[2] / 1000) -- up: never early, not even by a rounded millisecond

if token ~= '' then
    if redis.call('GET', lock) ~= token then
        return {-1}
    end
    redis.call('PEXPIRE', lock, lock_ms)
end
local scores = {}
for i = 3, #ARGV, 2 do
    if not redis.call('ZSCORE', leased, ARGV[i]) then
        scores[#scores + 1] = now + tonumber(ARGV[i + 1])
        scores[#scores + 1] = ARGV[i]
    end
end
if #scores == 0 then
    return {0}
end
return {redis.call('ZADD', due, 'LT', unpack(scores))}
