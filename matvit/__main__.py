"""`python -m matvit`: the `matvit` command, for where no script of that name is on the path."""

from importlib import import_module

if __name__ == "__main__":
    import_module("cli.main").main()  # By name: this package does not depend on that one.
