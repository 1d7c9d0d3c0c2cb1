"""The attack suite: small hostile programs, by what they are after."""

from ctpo.sandbox.probes.escapes import ESCAPES
from ctpo.sandbox.probes.kernel import KERNEL
from ctpo.sandbox.probes.poison import POISON
from ctpo.sandbox.probes.probe import AFTER, BREACH, PROBE_LIMITS, Probe, aftermath
from ctpo.sandbox.probes.resources import RESOURCES

PROBES = (*RESOURCES, *ESCAPES, *KERNEL, *POISON)

__all__ = ["AFTER", "BREACH", "PROBES", "PROBE_LIMITS", "Probe", "aftermath"]
