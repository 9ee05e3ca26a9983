"""What clients say, translated to one form (`ipa.serve.asked`): pure functions of JSON."""
