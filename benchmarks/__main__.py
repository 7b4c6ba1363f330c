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
named = sys.argv[1] if len(sys.argv) > 1 else "--help"
if not named.startswith("-") and named not in (*PARTS, *foundation.COMMANDS):
    known = ", ".join(sorted((*PARTS, *foundation.COMMANDS)))
    raise SystemExit(f"python -m benchmarks: no part {named!r}; there are {known}")
part = PARTS.get(named)
raise SystemExit(foundation.main() if part is None else part(sys.argv[2:]))
