"""`python -m jaxprune` is the `jaxprune` command."""

from jaxprune.cli import command

if __name__ == "__main__":
    command()
