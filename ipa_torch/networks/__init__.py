"""The reference's own modules, beside those of diffusers and transformers."""
