"""A child process for the tests of `bursar.app.child`: does what its first argument says."""

import os
import signal
import sys
import time

from bursar.app.spec import Ready, read_spec, say_ready


def main() -> int:
    behaviour = sys.argv[1]
    if behaviour == "die":
        return 3
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    spec = read_spec()
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "mute":
        return 0
    if behaviour == "slow":
        time.sleep(30)
    say_ready(spec.ready_fd, Ready(name=spec.node, problem=spec.data))
    sys.stdin.buffer.read()  # until the supervisor lets go
    return 0


if __name__ == "__main__":
    sys.exit(main())
