"""Build the distributions, check their metadata, and use the wheel from an environment that holds nothing else.

    python scripts/check_wheel.py FOLDER

``build`` and ``twine`` must be installed. FOLDER takes the distributions and the environment, which are made anew.
Exits with the status of the first command that fails.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Importing the package must load none of these.
LOADED_LATER = ("captum", "timm", "pytorch_grad_cam", "torchvision", "typer", "matplotlib")


def main() -> int:
    """Build, check, install and use."""
    folder = Path(sys.argv[1]).resolve()
    distributions, environment = folder / "dist", folder / "environment"
    for old in (distributions, environment):
        shutil.rmtree(old, ignore_errors=True)

    run(sys.executable, "-m", "build", "--outdir", distributions, ROOT)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(distributions.iterdir()))

    (wheel,) = distributions.glob("*.whl")
    version = wheel.name.split("-")[1]
    builder = venv.EnvBuilder(with_pip=True)
    builder.create(environment)
    context = builder.ensure_directories(environment)
    run(context.env_exe, "-m", "pip", "install", "--quiet", wheel)

    # from the folder of the environment, so that nothing is imported from the source tree
    run(Path(context.bin_path) / "xai-align", "--help", cwd=environment)
    said = run(Path(context.bin_path) / "xai-align", "--version", cwd=environment)
    if said.split() != ["xai-align", version]:
        sys.exit(f"the wheel has version {version}, and `xai-align --version` says {said!r}")
    run(
        context.env_exe,
        "-c",
        f"import sys, xai_align; loaded = set({LOADED_LATER!r}) & set(sys.modules); assert not loaded, loaded",
        cwd=environment,
    )
    run(
        context.env_exe,
        "-c",
        "import attention_align, captum_align, gradcam_align, hf_align, timm_align, torchvision_align",
        cwd=environment,
    )
    return 0


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command, print it and its output, and return its output; end with its status if it fails."""
    print("$", *command, flush=True)
    done = subprocess.run([str(word) for word in command], cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
