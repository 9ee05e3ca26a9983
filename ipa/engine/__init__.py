"""The engine: one owner of the models, for many callers. `ipa.Engine`, `ipa.Job`, `ipa.Needs`.

Nothing is imported here: a worker answers before it imports what is heavy.
"""
