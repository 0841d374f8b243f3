"""The F rows of the requirements, measured: Bursar as shipped beside nginx and a bare pass-through, in one run."""
