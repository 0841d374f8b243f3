-- The server's clock: seconds since 2026 as a double, finer than 0.1 us until 2043. All nodes go by this one.
local time = redis.call('TIME')
local now = time[1] - 1767225600 + time[2] / 1000000
