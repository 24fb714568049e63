"""The table of arXiv 2507.16782 beside this project's: `python -m benchmarks.paper`."""
