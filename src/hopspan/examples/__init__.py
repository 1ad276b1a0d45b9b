"""The example, `orders`, and what shows it, `demo`: beside this file in a wheel.

In a checkout both stay in the folder `examples`, where readers look for them, and this package
finds them there. They are users of hopspan, not parts of it.
"""

from pathlib import Path

_HERE = Path(__file__).resolve()

if not _HERE.with_name("demo").is_dir():
    __path__.append(str(_HERE.parents[3] / "examples"))
