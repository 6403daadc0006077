"""scoreboardd: a live CTF scoreboard daemon.

The packages follow the data. A change arrives over the bus (`backends`). The nodes wait until a burst is over, and one
of them takes the lock (`cluster`). Its builder process (`builder`) reads one snapshot of the platform's database
(`platforms`), computes the boards (`board`), renders the documents (`render`) and stages them. The node commits them
and announces the version. Every node serves it from memory (`cache`, `web`) and sends it to browsers (`stream`).
"""

__version__ = "0.1.0"
