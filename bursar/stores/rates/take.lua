-- Take from every limit, or from none and say which refused. The decisions are those of bursar.core.limits.
-- KEYS: record of tokens, record of requests, then one a limit.
-- ARGV: input tokens, output tokens, member, lease (s), record (s), then three a limit: kind, and
--       r i o t (requests; input, output, all tokens): seconds a unit, seconds from empty to full (below 0: admits none)
--       c (concurrency): calls in flight, 0
-- Answers: position of the limit that refused or 0, when to come back (us), then each limit's debt (us) or calls in
-- flight, after the act.
local input, output, member = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local lease_s, record_s = tonumber(ARGV[4]), ARGV[5]
local answer, debts = {0, 0}, {}

for limit = 1, #KEYS - 2 do -- how all of them stand, for those who are told
    local key = KEYS[limit + 2]
    if ARGV[3 * limit + 3] == 'c' then
        prune(key, lease_s)
        answer[limit + 2] = redis.call('ZCARD', key)
    else
        debts[limit] = debt_of(key)
        answer[limit + 2] = math.ceil(debts[limit] * 1000000)
    end
end

local function refused(limit, wait_s)
    answer[1], answer[2] = limit, math.ceil(wait_s * 1000000)
    return answer
end

for limit = 1, #KEYS - 2 do
    local at = 3 * limit + 3
    local kind, size, full_s = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    if kind == 'c' then
        if answer[limit + 2] >= size then
            return refused(limit, 1)
        end
    else
        local debt, taken = debts[limit], units_of(kind, input, output) * size
        if debt + taken > full_s then
            if full_s < 0 then
                return refused(limit, 3600)
            elseif taken <= full_s then
                return refused(limit, math.max(debt + taken - full_s, 0.001))
            elseif debt > 0 then -- larger than the bucket can ever hold: when that is full
                return refused(limit, debt)
            end
        end
        debts[limit] = debt + taken
    end
end

local tokens, requests = {}, {}
for limit = 1, #KEYS - 2 do
    local key, kind = KEYS[limit + 2], ARGV[3 * limit + 3]
    if kind == 'c' then
        answer[limit + 2] = answer[limit + 2] + 1
        occupy(key, lease_s, member)
    else
        set_debt(key, debts[limit])
        answer[limit + 2] = math.ceil(debts[limit] * 1000000)
        local record = kind == 'r' and requests or tokens
        record[#record + 1] = key
        record[#record + 1] = units_of(kind, input, output)
    end
end
if #tokens > 0 then
    redis.call('HSET', KEYS[1], unpack(tokens))
    redis.call('EXPIRE', KEYS[1], record_s)
end
if #requests > 0 then
    redis.call('HSET', KEYS[2], unpack(requests))
    redis.call('EXPIRE', KEYS[2], record_s)
end
return answer
