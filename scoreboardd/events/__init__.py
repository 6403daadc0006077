"""Other places than the cluster's own bus from which changes of the platform may be received.

The local backend has its bus within the process. A platform publishes in Redis all the same, or by the triggers of its
PostgreSQL; what is received there is passed on to the bus.
"""
