"""``python -m offbeat``: the command line."""

from offbeat.cli import main

main()
