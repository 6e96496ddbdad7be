"""Published guidelines as tables: pure functions of what was measured and what the user states."""
