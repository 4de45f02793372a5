"""`matvit plan`: every budget of a model and what it costs."""

from typing import Annotated

import typer

from cli import options
from cli.output import percent, print_json, print_table, si


def plan(
    model: Annotated[
        str, typer.Argument(help="Checkpoint directory, or a name such as matvit_base_patch16_224.")
    ],
    budget: Annotated[
        str | None, typer.Option(help="Show only the submodel for this budget: M, 60%, 9gmacs, 50mparams...")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show the Mix'n'Match curve of a model: submodels, MACs, FLOPs, parameters.

    Costs are those of embedding one image, without the classifier. Vision papers print MACs and call
    them FLOPs; here FLOPs are two a MAC.

    Example: matvit plan matvit_base_patch16_224 --budget 60%
    """
    import matvit

    encoder = matvit.load(model, weights=False)
    encoder.reset_classifier(0)
    space, cost = encoder.space, encoder.cost
    chosen = space.curve if budget is None else (encoder.submodel(budget),)
    full = cost(space.full).macs
    costs = [(submodel, cost(submodel)) for submodel in chosen]
    if json:
        print_json(
            [
                {
                    "submodel": str(s),
                    "widths": s.widths,
                    "gmacs": c.gmacs,
                    "gflops": c.gflops,
                    "mparams": c.mparams,
                    "share_of_xl": c.macs / full,
                }
                for s, c in costs
            ]
        )
        return
    print_table(
        [
            {
                "submodel": str(s),
                "MACs": si(c.macs),
                "FLOPs": si(c.flops),
                "parameters": si(c.params),
                "of XL": percent(c.macs / full),
            }
            for s, c in costs
        ]
    )
