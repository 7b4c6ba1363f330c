"""python -m benchmarks {worlds,exact,import-time,report,quality,speed,scale}.

See benchmarks/foundation.py; quality is benchmarks/quality.py, speed benchmarks/speed_peers.py,
scale benchmarks/scale.py.
"""

import sys

from benchmarks import foundation, quality, scale, speed_peers

if sys.argv[1:2] == ["quality"]:
    raise SystemExit(quality.main(sys.argv[2:]))
if sys.argv[1:2] == ["speed"]:
    raise SystemExit(speed_peers.main(sys.argv[2:]))
if sys.argv[1:2] == ["scale"]:
    raise SystemExit(scale.main(sys.argv[2:]))
raise SystemExit(foundation.main())
