-- May the caller look for rows that Redis has forgotten? Once in a while is enough, whatever the number of workers.
--   KEYS  lock of the reconcile
--   ARGV  ms during which nobody else may
-- Returns {1}: yes; {0}: somebody did lately.
local ok = redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1])
return {ok and 1 or 0}
