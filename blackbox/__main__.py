"""``python -m blackbox``: the command line."""

from blackbox.cli.main import main

main()
