"""What no implementation can beat on this GPU: the rate of large matrix products, the latency of a flag between blocks.

Started by gpu_check.py as a separate process. Each line that it writes holds all that is known by then.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch

from gpu.timing import PRECISIONS, precision_settings, time_interleaved


def matrix_rates(device: str, size: int = 8192) -> dict[str, float]:
    """Operations per second of a square product of random matrices, for each precision."""
    rates = {}
    for precision, dtype in PRECISIONS.items():
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        with precision_settings(precision):
            times = time_interleaved(
                {"product": lambda a=a, b=b: a @ b}, device, seconds=0.3, kinds=("device",), most=20
            )
        rates[precision] = 2 * size**3 / (times["product"]["device_ms"][0] * 1e-3)
    return rates


def flag_latency(nvcc: str, architecture: str) -> float:
    """Seconds from a block's release of a flag to another block's acquire (flag_latency.cu). Raises RuntimeError."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "flag_latency")
        source = Path(__file__).with_name("flag_latency.cu")
        for command in ([nvcc, f"-arch={architecture}", "-o", str(program), str(source)], [str(program)]):
            result = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if result.returncode != 0:
                raise RuntimeError(f"{Path(command[0]).name} failed: {(result.stdout + result.stderr).strip()[-300:]}")
    return float(result.stdout) * 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a dry run on small matrices")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are appended to this file")
    parser.add_argument("--nvcc", help="measures the latency of a flag, too")
    parser.add_argument("--architecture", help="of that program, such as sm_90a")
    arguments = parser.parse_args()
    result = {}

    def write(**values) -> None:
        result.update(values)
        with arguments.out.open("a") as file:
            file.write(json.dumps(result) + "\n")

    write(matrix_rates=matrix_rates(arguments.device, 8192 if arguments.device == "cuda" else 64))
    if arguments.nvcc is None:
        write(flag_latency="not measured (no nvcc, or a dry run)")
        return
    try:
        write(flag_latency_s=flag_latency(arguments.nvcc, arguments.architecture))
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        write(flag_latency=f"not measured ({error})")


if __name__ == "__main__":
    main()
