"""Sends game events to flywheel, and reads its tables."""
from .emitter import Emitter, Game, Stats
from .http import Refused, Unavailable
from .tables import read_table

__all__ = ["Emitter", "Game", "Refused", "Stats", "Unavailable", "read_table"]
