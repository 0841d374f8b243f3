-- A circuit of bursar.core.breaker as a hash of whole numbers, whose names and meaning are those of `Circuit`.
-- Instants are whole milliseconds since 2026.
local ms = math.floor(now * 1000 + 0.5)
local FIELDS = {'since', 'last', 'calls', 'failures', 'row', 'opened', 'until', 'trying', 'busy', 'at'}

local function circuit_of(key)
    local kept, circuit = redis.call('HMGET', key, unpack(FIELDS)), {}
    for at, field in ipairs(FIELDS) do
        circuit[field] = tonumber(kept[at] or 0)
    end
    return circuit
end

-- Kept for as long as it says something, and in the list of all.
local function keep(known, key, subject, circuit, rule)
    if circuit.opened == 0 and ms >= circuit.busy and ms - circuit.last > rule.window then
        redis.call('DEL', key)
        redis.call('ZREM', known, subject)
        return
    end
    local over = math.max(circuit.last + rule.window, circuit.busy)
    if circuit.opened > 0 then
        over = math.max(over, circuit['until'] + rule.window, circuit.trying)
    end
    local fields = {}
    for _, field in ipairs(FIELDS) do
        fields[#fields + 1] = field
        fields[#fields + 1] = string.format('%d', circuit[field])
    end
    redis.call('HSET', key, unpack(fields))
    redis.call('ZADD', known, string.format('%d', over), subject)
    redis.call('ZREMRANGEBYRANK', known, 0, -10001)
    local life = math.max(over - ms + 60000, 60000)
    redis.call('PEXPIRE', key, string.format('%d', life))
end

-- How it stands: 0 closed, 1 open, 2 half-open; then how long (ms) it is open, is being tried, is busy; then how many
-- failures are counted, how long ago (ms) it opened, and how long ago it failed last.
local function standing(circuit)
    local state = 0
    if circuit.opened > 0 then
        state = ms < circuit['until'] and 1 or 2
    end
    local opened = circuit.opened > 0 and math.max(ms - circuit.at, 0) or 0
    return {
        state, math.max(circuit['until'] - ms, 0), math.max(circuit.trying - ms, 0), math.max(circuit.busy - ms, 0),
        circuit.failures, opened, math.max(ms - circuit.last, 0),
    }
end
