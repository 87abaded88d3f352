"""`python -m likely`, the same as the `likely` command."""

from likely.cli import main

main()
