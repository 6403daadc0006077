"""scoreboardd: a live CTF scoreboard daemon.

The packages follow the data: a change arrives (`backend` bus) → it is debounced and one node wins the lock
(`coordination`) → one snapshot is read (`source`) → built and rendered (`board`, in the child process of `builder`) →
committed, fenced, and announced (`backend`) → fanned out and served from memory (`web`).
"""

__version__ = "0.1.0"
