"""Whole clusters in no time: real coordinators over a model of the store, the bus and the database.

    world       virtual time, the one source of chance, and the history of a run
    backends    the worlds there are: what is true on Redis, on Redis with an archive, on Postgres
    store       the model of the store: keys, scripts, messages (`test_conformance` holds it to the real ones)
    bus         from the store to the nodes: in order, or broken, or lost, or twice
    node        a real `Coordinator` with the hands that `cluster.runner` gives it
    archive     the documents that outlive the store, and who keeps them
    clients     browsers that come, leave and return
    judge       what must be true of the store at every step, whatever is asked of it
    cluster     all of these together, a platform that writes, and what must have come true in the end
    faults      what goes wrong, when and to whom
    mutants     coordinators, hands and stores that are broken on purpose

A seed is a history: `python -m tests.simulation SEEDS [FIRST] [--backend NAME]` runs many, and tells that of the one
that fails.
"""
