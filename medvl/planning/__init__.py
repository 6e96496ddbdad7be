"""Slabs to chunks within a token and memory budget. Imports no torch."""
