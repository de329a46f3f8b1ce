-- Leases the deliveries that are due, the longest due first, to the worker that asks.
--   KEYS  due, leased, epoch
--   ARGV  run id of the Redis that the caller believes in, most ids (1 ... 500), lease in ms
-- Moves ids from due to leased, scored with the end of the lease. The order of the writes matters: a Redis that is out of
-- memory refuses the first and nothing has happened.
-- Returns {1 or 0: the index belongs to this run of Redis, ms until the next one is due or -1, ids}.
local due, leased, epoch = KEYS[1], KEYS[2], KEYS[3]
local run, n, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local ids = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, n)
if #ids > 0 then
    local leases = {}
    for i, id in ipairs(ids) do
        leases[2 * i - 1], leases[2 * i] = now + lease, id
    end
    redis.call('ZADD', leased, unpack(leases))
    redis.call('ZREM', due, unpack(ids))
end

local head = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
local wait = -1
if head[2] then
    wait = math.max(0, tonumber(head[2]) - now)
end
local same = redis.call('GETRANGE', epoch, 0, #run) == run .. ' '
return {same and 1 or 0, wait, ids}
