"""Composition root of the control process of a node among many (`store: {kind: postgres}`)."""

import sys

from bursar.app.control import main
from bursar.app.stores_postgres import open_postgres

if __name__ == "__main__":
    sys.exit(main(open_postgres))
