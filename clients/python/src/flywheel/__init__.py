"""Sends game events to flywheel, follows its models, and reads its tables."""
from .emitter import Emitter, Game, Stats
from .http import Refused, Unavailable
from .models import follow
from .tables import read_table

__all__ = ["Emitter", "Game", "Refused", "Stats", "Unavailable", "follow", "read_table"]
