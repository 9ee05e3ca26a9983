"""The engine: one owner of the models, for many callers: `Engine`, its `Job`s and their `Needs`."""

from .engine import Engine as Engine
from .job import Job as Job
from .needs import Needs as Needs
from .needs import Part as Part

__all__ = ["Engine", "Job", "Needs", "Part"]
