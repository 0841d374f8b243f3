"""Make or refresh a virtual environment from hash-locked requirements: ``make_env.py [--bare] FOLDER LOCK [LOCK ...]``.

`--bare`: of others' programs alone, without Bursar itself.
Needs nothing but Python itself. Written so that an interpreter that is too old still parses it and can say so.
"""

import os
import subprocess
import sys

MINIMUM = (3, 11)


def stop(message):
    sys.stderr.write("bursar: " + message + "\n")
    sys.exit(3)


def check_interpreter():
    if sys.version_info < MINIMUM:
        stop(
            "Python 3.11 or newer is needed, %s is %d.%d; name another: make PYTHON=python3.12 ..."
            % (sys.executable, sys.version_info[0], sys.version_info[1])
        )
    try:
        import ensurepip  # noqa: F401, PLC0415  asked here, so that its absence is one line instead of a traceback
        import venv  # noqa: F401, PLC0415
    except ImportError:
        stop("this Python has no venv module; on Debian: apt-get install python3-venv")


def run(*command):
    # pip's settings of this machine may stay (mirror, proxy); what to install is the lock's business alone.
    status = subprocess.call(command)
    if status:
        stop("could not make the environment: %s ended with %d" % (" ".join(command[1:4]), status))


def main(folder, locks, bare):
    check_interpreter()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.stderr.write("bursar: making %s (once; again only when the locks change)\n" % folder)
    run(sys.executable, "-m", "venv", "--clear", folder)
    pip = (os.path.join(folder, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "--quiet")
    files = [argument for lock in locks for argument in ("-r", lock)]
    run(*(pip + ("install", "--require-hashes", "--no-deps", "--only-binary", ":all:") + tuple(files)))
    if not bare:
        run(*(pip + ("install", "--no-deps", "--no-build-isolation", "--no-index", "--editable", root)))
    run(*(pip + ("check",)))


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--bare"]
    if len(given) < 2:
        stop("usage: make_env.py [--bare] FOLDER LOCK [LOCK ...]")
    main(given[0], given[1:], "--bare" in sys.argv)
