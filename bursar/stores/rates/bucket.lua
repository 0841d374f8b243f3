-- A bucket is 'debt at': how many seconds of refill it lacked at which instant. No key = full. Stored with the instant,
-- not as the one number it amounts to, so that a server whose clock is set back lets buckets stand still, not starve.
-- Lua's numbers are doubles: units, microseconds and milliseconds all stay far below 2^53.
local function debt_of(key)
    local value = redis.call('GET', key)
    if not value then
        return 0
    end
    local gap = string.find(value, ' ', 1, true)
    local debt, at = tonumber(string.sub(value, 1, gap - 1)), tonumber(string.sub(value, gap + 1))
    if now > at then
        debt = debt - (now - at)
    end
    return debt > 0 and debt or 0
end

local function set_debt(key, debt)
    if debt > 0 then
        redis.call('SET', key, string.format('%.17g %.17g', debt, now), 'PX', math.ceil(debt * 1000) + 1000)
    else
        redis.call('DEL', key)
    end
end

local function units_of(kind, input, output)
    if kind == 'i' then
        return input
    elseif kind == 'o' then
        return output
    elseif kind == 't' then
        return input + output
    end
    return 1
end

-- Slots: members by the instant at which they lapse unless renewed. What lies further ahead than any lease reaches was
-- written before the clock was set back; a node that lives renews it.
local function prune(key, lease_s)
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    redis.call('ZREMRANGEBYSCORE', key, now + 2 * lease_s, '+inf')
end

local function occupy(key, lease_s, member)
    redis.call('ZADD', key, string.format('%.17g', now + lease_s), member)
    redis.call('PEXPIRE', key, math.ceil(lease_s * 2000))
end
