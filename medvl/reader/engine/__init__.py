"""The fast way to write replies on a GPU: vision in one batch, prefill into slots, decode by a replayed graph."""
