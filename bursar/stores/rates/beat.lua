-- This node lives. Answers how many do.
-- KEYS: the nodes. ARGV: lease (s), session.
local lease_s = tonumber(ARGV[1])
prune(KEYS[1], lease_s)
occupy(KEYS[1], lease_s, ARGV[2])
return redis.call('ZCARD', KEYS[1])
