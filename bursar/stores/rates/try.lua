-- Ask for the one try of a half-open circuit: `may_try` of bursar.core.breaker.
-- KEYS: the list of all circuits, the circuit. ARGV: subject, how long a try may last, window (ms).
-- Answers 1 = this call is it, then how the circuit stands.
local circuit, granted = circuit_of(KEYS[2]), 0
if circuit.opened > 0 and ms >= circuit['until'] and ms >= circuit.trying then
    circuit.trying, granted = ms + tonumber(ARGV[2]), 1
    keep(KEYS[1], KEYS[2], ARGV[1], circuit, {window = tonumber(ARGV[3])})
end
return {granted, unpack(standing(circuit))}
