"""Record: plain data inside one process; what a dataclass with slots is, `frozen=True` and `eq=False` included.

A dataclass writes and compiles its methods when its module is imported: 0.4 ms each, in every process that a cluster
starts. A Struct takes a twentieth of that. It has a name of its own here because nothing looks at its annotations, as
is done with messages: what only those need is imported for type checkers only.
"""

from __future__ import annotations

import msgspec

Record = msgspec.Struct
