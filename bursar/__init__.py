"""Bursar: the broker that stops leaked LLM keys and exploding LLM bills."""

__version__ = "0.1.0"
