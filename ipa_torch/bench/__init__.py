"""What `ipa.bench` measures with torch: random models, diffusers by itself, the machine itself."""
