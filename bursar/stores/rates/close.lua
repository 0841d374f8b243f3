-- A person has closed it: nothing is known of it any more.
-- KEYS: the list of all circuits, the circuit. ARGV: subject.
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
