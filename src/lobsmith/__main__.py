"""`python -m lobsmith`."""

from lobsmith.cli.main import main

main()
