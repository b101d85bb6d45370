"""Time of the demo after installation: base models, their adapters, 50 transfers, a report.

It begins anew: what an earlier demo has left is removed.

    python benchmarks/demo.py
"""

import shutil
import subprocess
import time
from pathlib import Path

LIMIT_S = 360


def main() -> None:
    root = Path(__file__).parents[1]
    subprocess.run(["make", "setup"], cwd=root, check=True)
    for name in ("runs/demo", "runs/demo_transfer", "prepared", "cache"):
        shutil.rmtree(root / name, ignore_errors=True)
    began = time.perf_counter()
    subprocess.run(["make", "demo"], cwd=root, check=True)
    taken = time.perf_counter() - began
    print(f"make demo: {taken:.0f} s (limit {LIMIT_S})")
    raise SystemExit(taken > LIMIT_S)


if __name__ == "__main__":
    main()
