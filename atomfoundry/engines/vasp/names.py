"""What the functionals and dispersion corrections are called that INCAR tags name."""

from __future__ import annotations

GGA = {
    "PE": "PBE",
    "PS": "PBEsol",
    "RE": "revPBE",
    "RP": "RPBE",
    "91": "PW91",
    "CA": "LDA",
    "AM": "AM05",
    "BO": "optB88",
    "OR": "optPBE",
    "MK": "optB86b",
    "ML": "PW86R",
    "BF": "BEEF",
}
META = {
    "SCAN": "SCAN",
    "RSCAN": "rSCAN",
    "R2SCAN": "r2SCAN",
    "TPSS": "TPSS",
    "RTPSS": "revTPSS",
    "M06L": "M06-L",
    "MS0": "MS0",
    "MS1": "MS1",
    "MS2": "MS2",
}
DISPERSION = {
    1: "D2",
    10: "D2",
    11: "D3",
    12: "D3(BJ)",
    13: "D4",
    2: "TS",
    20: "TS",
    21: "TS-HI",
    202: "MBD",
    4: "dDsC",
}
