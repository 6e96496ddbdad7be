"""Findings to pages and documents."""
