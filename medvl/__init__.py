"""medvl reads a radiology study with a local vision-language model and drafts a report. A research aid."""

__version__ = "0.1.0"
