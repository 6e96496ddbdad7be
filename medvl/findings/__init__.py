"""Replies to findings: schema, parse, measure, merge."""
