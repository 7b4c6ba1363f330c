"""`python -m bb_wm` is `bb-wm`."""

from bb_wm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
