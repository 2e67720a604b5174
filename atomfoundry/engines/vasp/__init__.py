"""VASP through atomate2's Makers, with custodian's error handlers."""
