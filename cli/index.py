"""`matvit index`: make indexes, change them, look at them."""

import typer

from cli import index_build, index_change, index_show

app = typer.Typer(help="Make, change and check indexes.", no_args_is_help=True, rich_markup_mode=None)
for module in (index_build, index_change, index_show):
    for command in module.COMMANDS:
        app.command()(command)
