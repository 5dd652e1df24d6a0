"""What people do with a density: tell classes."""

from pyro_gen.tasks.classify import Classes, classify

__all__ = ["Classes", "classify"]
