"""Commands with many options; `ipa.app.cli` registers them."""
