-- Leases that ran out: their worker died, or hangs. The deliveries are due again at once. Also the proof that this Redis
-- takes writes: a read-only, full or failing one refuses the pulse, and the caller treats it as down.
--   KEYS  due, leased, epoch, pulse
--   ARGV  run id, most ids (1 ... 500)
-- Moves ids from leased to due; NX, because an id that is in both sets keeps its due time.
-- Returns {1 or 0: the index belongs to this run of Redis, number of ids moved}.
local due, leased, epoch, pulse = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local run, n = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', pulse, string.format('%.0f', now))

local ids = redis.call('ZRANGEBYSCORE', leased, '-inf', now, 'LIMIT', 0, n)
if #ids > 0 then
    local scores = {}
    for i, id in ipairs(ids) do
        scores[2 * i - 1], scores[2 * i] = now, id
    end
    redis.call('ZADD', due, 'NX', unpack(scores))
    redis.call('ZREM', leased, unpack(ids))
end
local same = redis.call('GETRANGE', epoch, 0, #run) == run .. ' '
return {same and 1 or 0, #ids}
