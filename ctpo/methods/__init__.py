"""The methods, each as a log-ratio, a clip window, a surrogate rule and an aggregation.

`METHODS` has them by name. A new one is an entry here, a YAML in the method group and a test; one's own, outside this
package, needs no entry: see `ctpo.methods.custom`.
"""

from ctpo.methods.method import AGGREGATIONS, Method, MethodError, Notes
from ctpo.methods.paper import PAPER
from ctpo.methods.relatives import RELATIVES
from ctpo.methods.settings import configure, settings_of
from ctpo.methods.variants import VARIANTS

METHODS: dict[str, Method] = {method.name: method for method in (*PAPER, *RELATIVES, *VARIANTS)}

__all__ = ["AGGREGATIONS", "METHODS", "Method", "MethodError", "Notes", "configure", "settings_of"]
