"""``python -m xai_align``."""

import os
import sys

if __name__ == "__main__":
    # `python -m` puts the current directory first; only a reference that is typed may be looked for there
    if not sys.flags.safe_path and sys.path and os.path.realpath(sys.path[0] or os.curdir) == os.path.realpath("."):
        del sys.path[0]
    from xai_align.cli.app import main

    main()
