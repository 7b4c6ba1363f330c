"""python -m benchmarks PART [--help]: quality, speed, scale, instructions, overhead, and those of
benchmarks/foundation.py (worlds, exact, import-time, report). speed is benchmarks/speed_peers.py.
Microbenchmarks are apart: pytest benchmarks/micro.
"""

import sys

from benchmarks import foundation, instructions, overhead, quality, scale, speed_peers

PARTS = {
    "quality": quality.main,
    "speed": speed_peers.main,
    "scale": scale.main,
    "instructions": instructions.main,
    "overhead": overhead.main,
}
part = PARTS.get(sys.argv[1]) if len(sys.argv) > 1 else None
raise SystemExit(foundation.main() if part is None else part(sys.argv[2:]))
