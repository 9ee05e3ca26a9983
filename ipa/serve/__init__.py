"""A server of pictures over HTTP: our own API, OpenAI's and A1111's, on one engine.

Needs the extra `[serve]`. Nothing of it is imported by `import ipa` or by other commands.
"""
