"""The forward line, from a folder to a report. The only place that knows every room."""
