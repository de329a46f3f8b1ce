-- May the caller rebuild the index from PostgreSQL? One at a time: the lock dies with its holder after lock ms without a page.
--   KEYS  epoch, lock
--   ARGV  run id, token of the caller, lock in ms, age in ms or -1
-- The epoch is "run-id begin-ms": in which run of Redis the index was rebuilt last, and when that began. Another run id means
-- that Redis was restarted, or is another one, and may have forgotten the last writes. age >= 0: a rebuild that began longer
-- ago does not do either, because the caller lost additions since.
-- Returns {0}: not needed; {1, begin-ms}: yes, the lock is the caller's; {2}: somebody else is at it.
local epoch, lock = KEYS[1], KEYS[2]
local run, token, lock_ms, age = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local last_run, begun = string.match(redis.call('GET', epoch) or '', '^(%S+) (%d+)$')
if last_run == run and (age < 0 or tonumber(begun) >= now - age) then
    return {0}
end
local holder = redis.call('GET', lock)
if holder and holder ~= token then
    return {2}
end
redis.call('SET', lock, token, 'PX', lock_ms)
return {1, string.format('%.0f', now)}
