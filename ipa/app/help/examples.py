"""Commands to try: what the help of a command ends with."""

from __future__ import annotations

from collections.abc import Mapping

START: Mapping[str, str] = {
    "See what a picture as a prompt does, with the embedded model": "ipa-mlx demo",
    "Get pictures to play with: style.png, chair.png, …": "ipa-mlx demo --export .",
    "Make a heart in that style": 'ipa-mlx generate "a heart" -i style.png:0.7 -o heart.png',
}
"""First commands to try, by what they are for."""

RECIPES: Mapping[str, Mapping[str, str]] = {
    "generate": {
        "With the embedded model (pictures: ipa-mlx demo --export .)": (
            "ipa-mlx generate -p 'a heart' -i style.png:0.7 --steps 8"
        ),
        "The style of one picture, the object of another": (
            "ipa-mlx generate -i style.png --layers style -i chair.png --layers layout"
        ),
        "The same with Stable Diffusion XL": (
            "ipa-mlx generate -m sdxl -a plus-sdxl -p 'a chair' -i style.png:0.8 \\\n"
            "      --layers style -i chair.png:0.6 --layers layout"
        ),
        "One picture left, another right": (
            "ipa-mlx generate -i style.png -i chair.png \\\n"
            "      --mask 1=left.png --mask 2=right.png"
        ),
        "Words decide first, the picture later": (
            "ipa-mlx generate -p 'a ring' -i style.png@0.3-1 --curve fade_in"
        ),
        "Along the outlines of a picture": ("ipa-mlx generate -i style.png --control edges.png"),
        "From a picture, keeping most of it": (
            "ipa-mlx generate -p 'a star' --image chair.png --strength 0.6"
        ),
        "Which weight is right? All of them side by side": "ipa-mlx sweep -i style.png",
    },
    "sweep": {
        "Five weights": "ipa-mlx sweep -i style.png -p 'a heart' --steps 8",
        "Which layers carry what": (
            "ipa-mlx sweep -i style.png --scales 0.8 --seeds 1,2,3 \\\n"
            "      --layers style --layers layout"
        ),
        "Two pictures, three ends": (
            "ipa-mlx sweep -i style.png -i chair.png --scales 0.7 --ends 0.3,0.6,1"
        ),
    },
    "plan": {
        "Does it fit 8 GB?": "ipa-mlx plan -p 'a heart' -i style.png --memory-budget 4",
        "How large may it be?": "ipa-mlx plan -p 'a heart' --width 256 --height 256",
    },
    "explain": {
        "Weights of SDXL's layers, without its files": (
            "ipa-mlx explain -m sdxl -i style.png:0.8@0-0.5 --layers style"
        ),
        "As a picture": "ipa-mlx explain --curve fade_out -o weights.png",
    },
    "bench": {
        "One guided step of Stable Diffusion 1.5, against what is installed": "ipa-mlx bench",
        "What adapters cost": (
            "ipa-mlx bench --arm mlx --adapters 0 --adapters 1 --adapters 4 \\\n"
            "      --adapter-kind base --adapter-kind plus --runs 5"
        ),
        "How a step grows with the picture": (
            "ipa-mlx bench step --size 256 --size 384 --size 512 -o growth.json"
        ),
    },
    "capture": {
        "Record how a picture was made": (
            "ipa-mlx parity capture -r heart.png --picture style.png -o run.safetensors"
        ),
        "In a file of some megabytes": (
            "ipa-mlx parity capture -r heart.png --picture . --sketch -o run.safetensors"
        ),
    },
    "compare": {
        "MLX against the reference": (
            "ipa-mlx parity compare torch mlx -r heart.png --picture . --forced"
        ),
        "Two files": (
            "ipa-mlx parity compare run.safetensors other.safetensors \\\n      --html report.html"
        ),
    },
}
"""Recipes by command: a goal, and what to type."""


def epilog(recipes: Mapping[str, str]) -> str:
    """Recipes as the end of a help: each goal in a line, the command below it."""
    text = "\n".join(f"  {goal}:\n    {words}" for goal, words in recipes.items())
    return f" Try:\n\n{text}\n"
