-- These calls are still in flight: their slots last for another lease, and are there again where the server lost them.
-- KEYS: the slots of one limit. ARGV: lease (s), then members.
local lease_s = tonumber(ARGV[1])
prune(KEYS[1], lease_s)
for position = 2, #ARGV do
    occupy(KEYS[1], lease_s, ARGV[position])
end
return #ARGV - 1
