-- The call is over: free its slots; where a later stage refused it, return its requests as well. Twice does nothing.
-- KEYS: record of requests, then one a limit. ARGV: member, '1' to return requests, then two a limit: kind, seconds a
-- unit.
local given = 0
for limit = 1, #KEYS - 1 do
    local key, kind = KEYS[limit + 1], ARGV[2 * limit + 1]
    if kind == 'c' then
        given = given + redis.call('ZREM', key, ARGV[1])
    elseif redis.call('HDEL', KEYS[1], key) == 1 and ARGV[2] == '1' then
        set_debt(key, debt_of(key) - tonumber(ARGV[2 * limit + 2]))
        given = given + 1
    end
end
return given
