"""λ: how strongly an image prompt acts, by layer, step and place."""
