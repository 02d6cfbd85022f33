"""``python -m xai_align``."""

import os
import sys

if __name__ == "__main__":
    # `python -m` puts the current directory first; only references given on the command line may be imported from it
    if not sys.flags.safe_path and sys.path and os.path.realpath(sys.path[0] or os.curdir) == os.path.realpath("."):
        del sys.path[0]
    from xai_align.cli.app import main

    main()
