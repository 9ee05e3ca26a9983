"""A worker as a module: `python -m ipa.engine.stdio`."""

from .worker import main

main()
