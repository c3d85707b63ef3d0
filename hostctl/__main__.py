"""``hostctl``, and ``python -m hostctl``."""

import sys

INTERRUPTED = 130  # as in hostctl.errors, which may not be loaded yet


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        from hostctl.cli.main import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = INTERRUPTED  # before anything was started
    sys.exit(status)


if __name__ == "__main__":
    main()
