"""Bursar beside its peers: the same load, the same upstream, one run. The peers come from their own packages."""
