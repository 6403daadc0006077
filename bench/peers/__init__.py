"""The Python peers, each a small application as its documentation would have it, run in a virtual environment apart."""
