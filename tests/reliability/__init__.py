"""The reliability campaign: `python -m tests.reliability ci|nightly|release`; see `__main__`."""
