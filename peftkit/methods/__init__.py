"""One paper, one file. `method.py` is the contract."""
