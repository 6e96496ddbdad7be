"""Phantoms with known truth, and scores against it."""
