-- All circuits of which something is known, as (subject, how it stands), those first that are kept longest.
-- KEYS: the list of all circuits. ARGV: the begin of a circuit's name, how many at most.
local board = {}
for _, subject in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)) do
    local key = ARGV[1] .. subject
    if redis.call('EXISTS', key) == 1 then
        board[#board + 1] = {subject, unpack(standing(circuit_of(key)))}
    else
        redis.call('ZREM', KEYS[1], subject)
    end
end
return board
