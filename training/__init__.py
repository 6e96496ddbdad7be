"""Trains the demo model: a small Qwen3-VL that reads computer-made chest CT, from nothing, on one GPU."""
