-- Give back what was reserved and not used, or charge what was used beyond it. What no record names was not taken, or is
-- settled already: nothing happens to it.
-- KEYS: record of tokens, then one a limit. ARGV: input tokens, output tokens, then two a limit: kind, seconds a unit.
local input, output = tonumber(ARGV[1]), tonumber(ARGV[2])
local settled = 0
for limit = 1, #KEYS - 1 do
    local key = KEYS[limit + 1]
    local reserved = redis.call('HGET', KEYS[1], key)
    if reserved then
        local extra = units_of(ARGV[2 * limit + 1], input, output) - tonumber(reserved)
        set_debt(key, debt_of(key) + extra * tonumber(ARGV[2 * limit + 2]))
        settled = settled + 1
    end
end
redis.call('DEL', KEYS[1])
return settled
