"""`python -m lobsmith`."""

from lobsmith.cli.interrupt import ending_on_interrupt


def main() -> None:
    """Run the command line; imports are long enough for a Ctrl-C."""
    with ending_on_interrupt():
        from lobsmith.cli.main import main as run

        run()


if __name__ == "__main__":
    main()
