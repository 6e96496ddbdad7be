"""The parts of the reader that asks a server: what is said, what is answered, how patiently."""
