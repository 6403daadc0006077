"""The pure core: rows of a platform → `Scoreboard` → the four documents of the contract.

Nothing in this package does I/O, reads a clock or knows of asyncio.
"""
