"""Folder to grey pictures: scan, order, decode, window."""
