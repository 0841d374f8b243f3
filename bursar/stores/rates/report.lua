-- What became of a call: `report` of bursar.core.breaker.
-- KEYS: the list of all circuits, the circuit.
-- ARGV: subject, outcome (ok, failed, busy, none), 1 = it was the one try, wait (ms; below 0: none was named), then the
-- rule: failures in a row, share, least calls, window, open, longest (ms).
-- Answers how the circuit stands.
local circuit, outcome, tried, wait = circuit_of(KEYS[2]), ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local rule = {
    row = tonumber(ARGV[5]), share = tonumber(ARGV[6]), least = tonumber(ARGV[7]), window = tonumber(ARGV[8]),
    open = tonumber(ARGV[9]), longest = tonumber(ARGV[10]),
}

if tried and circuit.opened > 0 then
    circuit.trying = 0
    if outcome == 'failed' then
        circuit.failures = circuit.failures + 1
        circuit.opened = math.min(circuit.opened + 1, 20)
        circuit['until'] = ms + math.min(rule.open * 2 ^ (circuit.opened - 1), rule.longest)
        circuit.last = ms
    elseif outcome ~= 'none' then
        circuit.since, circuit.last, circuit.calls, circuit.failures, circuit.row = 0, 0, 0, 0, 0
        circuit.opened, circuit['until'], circuit.at = 0, 0, 0
    end
end
if outcome == 'busy' and wait >= 0 then
    circuit.busy = math.max(circuit.busy, ms + math.min(wait, rule.longest))
end
if circuit.opened == 0 and not tried and (outcome == 'ok' or outcome == 'failed') then
    if ms - circuit.last > rule.window then
        circuit.row = 0
    end
    if ms - circuit.since > rule.window then
        circuit.since, circuit.calls, circuit.failures = ms, 0, 0
    end
    circuit.calls = circuit.calls + 1
    if outcome == 'ok' then
        circuit.row = 0
    else
        circuit.failures, circuit.row, circuit.last = circuit.failures + 1, circuit.row + 1, ms
        local many = circuit.calls >= rule.least and circuit.failures * 100 >= circuit.calls * rule.share
        if circuit.row >= rule.row or many then
            circuit.opened, circuit['until'], circuit.trying, circuit.at = 1, ms + rule.open, 0, ms
        end
    end
end
keep(KEYS[1], KEYS[2], ARGV[1], circuit, rule)
return standing(circuit)
