"""``python -m xai_align``."""

from xai_align.cli import main

if __name__ == "__main__":
    main()
