"""`matvit models`: encoders to begin with."""

from dataclasses import asdict

from cli import options
from cli.output import print_json, print_table, say


def models(json: options.Json = False) -> None:
    """List encoders to begin with, and what each is good for.

    The table has their costs and licences, too. -m takes many more: any Vision Transformer of timm by its
    name, with @224px for images of that size.

    Example: matvit models
    """
    from matvit.weights.known_models import DEFAULT, KNOWN_MODELS

    if json:
        print_json({"default": DEFAULT, "models": [asdict(model) for model in KNOWN_MODELS]})
        return
    print_table(
        [
            {
                "-m": model.name,
                "M parameters": f"{model.mparams:g}",
                "GMACs": f"{model.gmacs:g}",
                "MB": model.megabytes,
                "licence": model.licence,
                "good for": model.good_for,
            }
            for model in KNOWN_MODELS
        ]
    )
    say(f"without -m or an index, commands take {DEFAULT}, or what {options.MODEL_VARIABLE} says")
