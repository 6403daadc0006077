"""Who is listed on a board, and in which order. Clients, which have no numpy, use this module as well."""

from enum import StrEnum


class Order(StrEnum):
    """How participants with equal scores are ordered."""

    STATIC = "static"
    "Teams by name and id, users by id."
    LAST_SOLVE = "last_solve"
    "By the time of the last solve that is worth points: the earlier one is ahead. Then as in `STATIC`."
    LAST_ROW = "last_row"
    """By the time of the last solve or adjustment that is worth points, then by the highest sequence number among all
    of these, then by id."""


class Listing(StrEnum):
    """Which participants are on the board."""

    ALL = "all"
    SOLVED = "solved"
    "Those with a solve."
    COUNTED = "counted"
    "Those with a solve or an adjustment that is worth other than 0 points."
