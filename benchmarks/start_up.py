"""How long a user waits before anything happens: `import medssl_monai`, `medssl --help`, the modules of a run.

    python benchmarks/start_up.py

Wall time of fresh processes, less that of an empty interpreter for the imports. Goals: 0.2 s and 0.5 s.
"""

import statistics
import subprocess
import sys
import time

from measure import arguments, start

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import medssl_monai": ["-c", "import medssl_monai"],
    "medssl --help": ["-m", "medssl_monai", "--help"],
    "import the trainer": ["-c", "import medssl_monai.engines.pretrain"],
}


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "", rounds=5).parse_args()
    start(options.device, options.threads)
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(options.rounds + 1):
        for name, command in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            if number:  # the first round fills the file cache
                seconds[name].append(time.perf_counter() - begin)
    for name, values in seconds.items():
        print(f"  {name:<24} {statistics.median(values):6.3f} s wall  [{min(values):.3f} .. {max(values):.3f}]")


if __name__ == "__main__":
    main()
