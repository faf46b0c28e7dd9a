"""The command `surefoot`, also as `python -m surefoot`."""

import sys


def main() -> int:
    """Run the command line. Ctrl-C ends it quietly, also while torch is still being loaded."""
    try:
        from surefoot import cli

        return cli.main()
    except KeyboardInterrupt:
        print("surefoot: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
