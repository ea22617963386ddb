"""Licenses of published weights: those that restrict what weights may be used for, and the notice of them."""

from __future__ import annotations

import warnings

PERMISSIVE = frozenset(("apache-2.0", "bsd-3-clause", "mit"))
NONCOMMERCIAL = "non-commercial use only"
OWN_TERMS = "terms of its own, which limit use or distribution"
RESTRICTED = {
    "apple-amlr": "research only",
    "apple-ascl": OWN_TERMS,
    "cc-by-nc-4.0": NONCOMMERCIAL,
    "dinov3-license": OWN_TERMS,
    "fair-noncommercial-research-license": "non-commercial research only",
    "nvidia-open-model-license": OWN_TERMS,
    "seer-license": OWN_TERMS,
}
"""What each license that is not permissive asks for, in a few words; its text alone is binding."""


class LicenseWarning(UserWarning):
    """A model is named after published weights whose license restricts their use."""


def find_restriction(license: str | None) -> str | None:
    """Returns in a few words how ``license`` restricts the use of weights; None where it does not.

    A license that is not known here may have terms of its own, and one that is not stated allows nothing.
    """
    if license is None:
        return "no license is stated"
    return None if license in PERMISSIVE else RESTRICTED.get(license, OWN_TERMS)


def warn_of_license(name: str, license: str | None, address: str) -> None:
    """Warns once per name where the license of published weights restricts their use."""
    restriction = find_restriction(license)
    if restriction is not None:
        what = f"the license {license} ({restriction})" if license else "no stated license"
        text = f"the weights {name!r} have {what}: read it before you use them, at {address}"
        # At one place for all callers, so that Python shows each text once.
        warnings.warn(text, LicenseWarning, stacklevel=1)
